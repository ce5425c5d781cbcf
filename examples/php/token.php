<?php
// GET /token.php: a chat token for the signed-in user. The page's SDK requests it before every connection.

require __DIR__ . '/chat.php';

session_start();
header('content-type: text/plain');
header('cache-control: no-store');
if (!isset($_SESSION['user'])) {
    http_response_code(401);
    exit('nobody is signed in');
}
echo chat_token($_SESSION['user'], trim(file_get_contents(getenv('CHAT_SECRET_FILE'))));
