<?php

// What every page of the shop needs: who is signed in, the chat's client, and the room of a customer.

declare(strict_types=1);

use Switchboard\Client;
use Switchboard\Exception\AlreadyExists;
use Switchboard\Tokens;

// With Composer: require __DIR__ . '/vendor/autoload.php';
require __DIR__ . '/../../packages/php/autoload.php';

/** The shop, as a user of the chat. */
function chat(): Client
{
    static $client = null;
    return $client ??= new Client((string) getenv('CHAT_SERVER'), (string) getenv('CHAT_API_KEY'), as: 'shop');
}

function tokens(): Tokens
{
    return Tokens::fromSecret((string) file_get_contents((string) getenv('CHAT_SECRET_FILE')));
}

/** The signed-in user; an app has its own way to sign users in. */
function user(): ?string
{
    if (session_status() !== PHP_SESSION_ACTIVE) {
        session_start();
    }
    return $_SESSION['user'] ?? null;
}

/** @return list<string> who answers customers */
function desk(): array
{
    return explode(',', getenv('CHAT_DESK') ?: 'dora,dan');
}

/** A customer's room with the support desk. It is created once; the desk may change later. */
function support_room(string $customer): string
{
    $room = chat()->room("support-$customer");
    try {
        $room->create("Support for $customer", members: [$customer, ...desk()]);
    } catch (AlreadyExists) {
        // An invitation of a member has no effect.
        array_map($room->invite(...), desk());
    }
    return $room->id;
}

/** The chat in a page. */
function chat_element(string $conversation, bool $sidebar): string
{
    $server = htmlspecialchars(public_server());
    return "<script type=\"module\" src=\"$server/switchboard-chat.js\"></script>\n"
        . "<switchboard-chat server=\"$server\" conversation=\"" . htmlspecialchars($conversation) . '"'
        . ($sidebar ? '' : ' sidebar="0"') . "></switchboard-chat>\n"
        . "<script type=\"module\" src=\"/page.js\"></script>\n";
}

/** Lets the browser load the chat's element, and connect to its server. */
function policy(): void
{
    $origin = preg_replace('#^(https?://[^/]+).*#', '$1', public_server());
    $socket = preg_replace('/^http/', 'ws', $origin);
    header("content-security-policy: default-src 'self'; script-src 'self' $origin; connect-src 'self' $socket");
}

/** The server's address for browsers; the back end may use another one. */
function public_server(): string
{
    return rtrim((string) (getenv('CHAT_PUBLIC_SERVER') ?: getenv('CHAT_SERVER')), '/');
}
