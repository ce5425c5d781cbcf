<?php

// The customer's page: a form to sign in, then the room with the support desk.

declare(strict_types=1);

require __DIR__ . '/app.php';

$user = user();
if (preg_match('/^[A-Za-z0-9][\w.~+=|@-]{0,55}$/D', $_POST['user'] ?? '') === 1) {
    session_regenerate_id(true);
    $_SESSION['user'] = $_POST['user'];
    header('location: ' . (in_array($_POST['user'], desk(), true) ? '/desk.php' : '/'), true, 303);
    exit;
}
policy();
?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Shop</title>
<?php if ($user === null) : ?>
    <form method="post"><label>Name <input name="user" required></label> <button>Sign in</button></form>
<?php else : ?>
    <p>Signed in as <?= htmlspecialchars($user) ?>.</p>
    <?= chat_element(support_room($user), sidebar: false) ?>
<?php endif ?>
</html>
