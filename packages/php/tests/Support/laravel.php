<?php

// A route of Laravel: the first argument has the request's headers and its body.

declare(strict_types=1);

use Illuminate\Container\Container;
use Illuminate\Events\Dispatcher;
use Illuminate\Http\Request;
use Illuminate\Http\Response;
use Illuminate\Routing\Router;
use Switchboard\Answer;
use Switchboard\Ask;
use Switchboard\Handlers;

// Laravel 8 of Debian says things that PHP 8.2 deprecates.
error_reporting(E_ALL & ~E_DEPRECATED);
require 'Illuminate/Routing/autoload.php';
require __DIR__ . '/../../autoload.php';

$container = new Container();
$router = new Router(new Dispatcher(), $container);
$router->post('/chat-hook', function (Request $request): Response {
    $reply = (new Handlers((string) getenv('HOOK_SECRET')))
        ->onMessage(fn (Ask $ask) => $ask->message['text'] === 'spam' ? Answer::refuse('Not here.') : null)
        ->handle($request->headers->all(), $request->getContent());
    return new Response($reply->body, $reply->status, $reply->headers);
});

['headers' => $headers, 'body' => $body] = json_decode($argv[1], true);
$request = Request::create('/chat-hook', 'POST', [], [], [], [], $body);
$request->headers->add($headers);
$container->instance(Request::class, $request);
$response = $router->dispatch($request);
echo $response->getStatusCode(), ' ', $response->getContent();
