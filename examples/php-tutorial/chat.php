<?php

// A chat room in one file: its page, and what happens when a user connects, writes and goes away.

declare(strict_types=1);

use Switchboard\{Answer, Ask, Client, Entry, Handlers, Tokens};

require __DIR__ . '/../../packages/php/autoload.php'; // with Composer: vendor/autoload.php

$server = getenv('CHAT_SERVER');
$lobby = (new Client($server, getenv('CHAT_API_KEY'), as: 'lobby-porter'))->room('lobby');

// The server asks this file before a user connects and before a message is stored (the hook),
// and sends it each user who went offline (the webhook).
if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    (new Handlers([getenv('CHAT_HOOK_SECRET'), getenv('CHAT_WEBHOOK_SECRET')]))
        ->onOpen(fn (Ask $ask) => Answer::accept(join: ['#lobby']))
        ->onMessage(function (Ask $ask): ?Answer {
            $text = $ask->message['text'] ?? '';
            if (stripos($text, 'casino') !== false) {
                return Answer::refuse('No advertisements here.');
            }
            $clean = preg_replace('/\bdamn\b/i', 'd***', $text);
            return $clean === $text ? null : Answer::replace(text: $clean);
        })
        // The entry's id as the key: the message is stored once, however often the entry comes.
        ->onClose(fn (Entry $entry) => $lobby->send("{$entry->user()} has left.", key: $entry->id))
        ->serve();
    exit;
}

session_start();
if (preg_match('/^[a-z]{1,20}$/D', $_GET['name'] ?? '') === 1) {
    $_SESSION['user'] = $_GET['name']; // an application signs its users in with a password
}
$user = $_SESSION['user'] ?? null;
if ($user !== null && $_SERVER['REQUEST_URI'] === '/token') {
    exit(Tokens::fromSecret(file_get_contents(getenv('CHAT_SECRET_FILE')))->mint($user));
}
$lobby->create('Lobby', public: true); // stores nothing if there is this room
?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Lobby</title>
<?php if ($user === null) : ?>
    <form><label>Name <input name="name" pattern="[a-z]{1,20}" required></label></form>
<?php else : ?>
    <script type="module" src="<?= $server ?>/switchboard-chat.js"></script>
    <switchboard-chat server="<?= $server ?>" conversation="#lobby" sidebar="0"></switchboard-chat>
    <script type="module">
        const chat = document.querySelector('switchboard-chat');
        chat.token = async () => (await fetch('/token')).text();
    </script>
<?php endif ?>
</html>
