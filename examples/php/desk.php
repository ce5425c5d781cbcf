<?php

// The support desk's page: the customers who wait for an answer, and the chat with all of them.

declare(strict_types=1);

require __DIR__ . '/app.php';

$agent = user();
if (!in_array($agent, desk(), true)) {
    http_response_code(403);
    exit('only for the support desk');
}
policy();
?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Support desk</title>
<h1>Waiting for <?= htmlspecialchars($agent) ?></h1>
<ul>
<?php foreach (chat()->user($agent)->conversations() as $id => $room) : ?>
    <?php if ($room['unread'] > 0) : ?>
    <li><a href="?room=<?= urlencode($id) ?>"><?= htmlspecialchars($room['title'] ?? $id) ?></a>:
        <?= $room['unread'] ?> unread
    <?php endif ?>
<?php endforeach ?>
</ul>
<?= chat_element($_GET['room'] ?? '', sidebar: true) ?>
</html>
