<?php
// A page of an app that signs in its own users; the chat gets the user by a token.

session_start();
if (isset($_POST['user']) && preg_match('/^[A-Za-z0-9][\w.~+=|@-]{0,63}$/', $_POST['user'])) {
    session_regenerate_id(true);
    $_SESSION['user'] = $_POST['user'];
    header('location: /', true, 303);
    exit;
}
// The server's address for browsers; the back end may use another one.
$server = rtrim(getenv('CHAT_PUBLIC_SERVER') ?: getenv('CHAT_SERVER'), '/');
$origin = preg_replace('#^(https?://[^/]+).*#', '$1', $server);
header("content-security-policy: default-src 'self'; script-src 'self' $origin; connect-src 'self' " . preg_replace('/^http/', 'ws', $origin));
?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Shop</title>
<?php if (!isset($_SESSION['user'])): ?>
<form method="post"><label>Name <input name="user" required></label> <button>Sign in</button></form>
<?php else: ?>
<p>Signed in as <?= htmlspecialchars($_SESSION['user']) ?>.</p>
<script type="module" src="<?= htmlspecialchars($server) ?>/switchboard-chat.js"></script>
<switchboard-chat server="<?= htmlspecialchars($server) ?>" conversation="@shop" sidebar="0"></switchboard-chat>
<script type="module" src="/page.js"></script>
<?php endif ?>
</html>
