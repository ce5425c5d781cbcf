<?php

declare(strict_types=1);

namespace Switchboard\Tests;

use PHPUnit\Framework\TestCase;
use Switchboard\Answer;
use Switchboard\Ask;
use Switchboard\Entry;
use Switchboard\Handlers;
use Switchboard\Reply;
use Switchboard\Webhook;

/** The handlers, without a web server. */
final class HandlersTest extends TestCase
{
    private const SECRET = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
    private const MESSAGE = [
        'user' => 'alice', 'conversation' => '#general', 'message' => ['text' => 'hello', 'key' => 'k1'],
        'claims' => ['tier' => 'gold'], 'address' => '192.0.2.7',
    ];

    public function testAHandlerIsGivenTheQuestion(): void
    {
        $given = null;
        $handlers = (new Handlers(self::SECRET))->onMessage(function (Ask $ask) use (&$given): ?Answer {
            $given = $ask;
            return null;
        });
        self::assertSame(204, self::post($handlers, 'ask.message', self::MESSAGE)->status);
        self::assertSame(['message', 'alice', '#general', 'hello', 'gold', '192.0.2.7'], [
            $given->type, $given->user, $given->conversation, $given->message['text'], $given->claims['tier'],
            $given->address,
        ]);
    }

    /** @return array<string, array{Answer, string}> */
    public static function answers(): array
    {
        return [
            'accept' => [Answer::accept(), '{"action":"accept"}'],
            'accept with a profile and rooms' => [
                Answer::accept([], ['#general']),
                '{"action":"accept","profile":{},"join":["#general"]}',
            ],
            'replace' => [Answer::replace(text: 'd***'), '{"action":"replace","text":"d***"}'],
            'replace data' => [Answer::replace(data: []), '{"action":"replace","data":{}}'],
            'remove' => [
                Answer::replace(text: 'a/ü', data: null),
                '{"action":"replace","text":"a/ü","data":null}',
            ],
            'hold' => [Answer::hold(), '{"action":"hold"}'],
            'refuse' => [Answer::refuse('No.'), '{"action":"refuse","message":"No."}'],
            // Cut between two letters, not within one.
            'refuse at length' => [
                Answer::refuse('x' . str_repeat('ü', 300)),
                '{"action":"refuse","message":"x' . str_repeat('ü', 249) . '"}',
            ],
        ];
    }

    /** @dataProvider answers */
    public function testAnAnswerIsWritten(Answer $answer, string $expected): void
    {
        $handlers = (new Handlers(self::SECRET))->onOpen(fn () => $answer);
        $reply = self::post($handlers, 'ask.open', ['user' => 'alice']);
        self::assertSame([200, $expected], [$reply->status, $reply->body]);
        self::assertSame('application/json', $reply->headers['content-type']);
    }

    public function testWhatIsReplacedHasAName(): void
    {
        $this->expectException(\InvalidArgumentException::class);
        Answer::replace('text');
    }

    public function testAnEntryOfTheFeedReachesItsHandlerByEitherWay(): void
    {
        $offline = [];
        $handlers = (new Handlers(self::SECRET))->onClose(function (Entry $entry) use (&$offline): void {
            $offline[] = $entry->user();
        });
        $entry = ['id' => 'e1-7', 'type' => 'user.offline', 'user' => 'alice'];
        self::assertSame(204, self::post($handlers, 'user.offline', $entry)->status);
        $handlers->dispatch(Entry::of(['user' => 'bob'] + $entry));
        self::assertSame(['alice', 'bob'], $offline);
        self::assertSame(204, self::post($handlers, 'message', ['type' => 'message'])->status, 'without a handler');
    }

    public function testAQuestionWithoutAHandlerIsNotAccepted(): void
    {
        self::assertSame(501, self::post(new Handlers(self::SECRET), 'ask.message', self::MESSAGE)->status);
    }

    public function testAForgedQuestionReachesNoHandler(): void
    {
        $handlers = (new Handlers(self::SECRET))->onMessage(fn () => self::fail('it reached the handler'));
        self::assertSame(503, $handlers->handle([], '{"type":"ask.message","data":{}}')->status);
    }

    public function testAHandlerThatFailsIsTheApplicationsToLog(): void
    {
        $handlers = (new Handlers(self::SECRET))->onMessage(fn () => throw new \DomainException('away'));
        $this->expectException(\DomainException::class);
        self::post($handlers, 'ask.message', self::MESSAGE);
    }

    public function testAHandlerThatReturnsSomethingElseFails(): void
    {
        $handlers = (new Handlers(self::SECRET))->onMessage(fn () => true);
        $this->expectException(\UnexpectedValueException::class);
        self::post($handlers, 'ask.message', self::MESSAGE);
    }

    public function testTwoSecretsServeAHookAndAWebhookAtOneAddress(): void
    {
        $handlers = new Handlers(['whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD', self::SECRET]);
        self::assertSame(204, self::post($handlers, 'message', ['type' => 'message'])->status);
    }

    /** @param array<string, mixed> $data */
    private static function post(Handlers $handlers, string $type, array $data): Reply
    {
        $body = json_encode(['type' => $type, 'timestamp' => '2026-11-24T17:54:04.010Z', 'data' => $data]);
        return $handlers->handle([
            'Webhook-Id' => 'e1-7',
            'Webhook-Timestamp' => (string) time(),
            'Webhook-Signature' => Webhook::sign(self::SECRET, 'e1-7', time(), $body),
        ], $body);
    }
}
