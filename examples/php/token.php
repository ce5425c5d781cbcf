<?php

// GET /token.php: a chat token for the signed-in user. The page's SDK requests it before every connection.

declare(strict_types=1);

require __DIR__ . '/app.php';

header('content-type: text/plain');
header('cache-control: no-store');
$user = user();
if ($user === null) {
    http_response_code(401);
    exit('nobody is signed in');
}
echo tokens()->mint($user);
