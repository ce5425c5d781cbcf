<?php

// A controller of Symfony: the first argument has the request's headers and its body.

declare(strict_types=1);

use Switchboard\Answer;
use Switchboard\Ask;
use Switchboard\Handlers;
use Symfony\Component\HttpFoundation\Request;
use Symfony\Component\HttpFoundation\Response;

require 'Symfony/Component/HttpFoundation/autoload.php';
require __DIR__ . '/../../autoload.php';

$controller = static function (Request $request): Response {
    $reply = (new Handlers((string) getenv('HOOK_SECRET')))
        ->onMessage(fn (Ask $ask) => $ask->message['text'] === 'spam' ? Answer::refuse('Not here.') : null)
        ->handle($request->headers->all(), $request->getContent());
    return new Response($reply->body, $reply->status, $reply->headers);
};

['headers' => $headers, 'body' => $body] = json_decode($argv[1], true);
$request = Request::create('/chat-hook', 'POST', content: $body);
$request->headers->add($headers);
$response = $controller($request);
echo $response->getStatusCode(), ' ', $response->getContent();
