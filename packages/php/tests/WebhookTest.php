<?php

declare(strict_types=1);

namespace Switchboard\Tests;

use PHPUnit\Framework\TestCase;
use Switchboard\Exception\BadSignature;
use Switchboard\Webhook;

/** Signatures, beside the official libraries of Standard Webhooks for JavaScript and Python. */
final class WebhookTest extends TestCase
{
    private const SECRET = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
    private const OTHER = 'whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD';
    private const NOW = 1_700_000_000;
    private const BODY = '{"type":"message","timestamp":"2026-11-24T17:54:04.010Z","data":{"text":"Zoë 🎉"}}';

    public function testTheExampleOfTheSpecification(): void
    {
        $body = '{"test": 2432232314}';
        $expected = 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=';
        self::assertSame($expected, Webhook::sign(self::SECRET, 'msg_p5jXN8AQM9LWM0D4loKWxJek', 1614265330, $body));
    }

    /** @return array<string, array{list<string>}> */
    public static function libraries(): array
    {
        $python = getenv('PYTHON') ?: __DIR__ . '/../../../target/python/bin/python';
        return [
            'JavaScript' => [['node', __DIR__ . '/Support/official.mjs']],
            'Python' => [[$python, __DIR__ . '/Support/official.py']],
        ];
    }

    /**
     * @dataProvider libraries
     * @param list<string> $library
     */
    public function testTheirsVerifiesOurs(array $library): void
    {
        $verified = fn (string $secret, int $time, string $signature): string => self::ask($library, [
            'do' => 'verify', 'secret' => $secret, 'timestamp' => $time, 'signature' => $signature,
        ]);
        $now = time();
        $signature = Webhook::sign(self::SECRET, 'e1-7', $now, self::BODY);
        self::assertSame('good', $verified(self::SECRET, $now, $signature));
        self::assertSame('good', $verified(self::SECRET, $now, "v1,AAAA $signature"));
        self::assertSame('WebhookVerificationError', $verified(self::OTHER, $now, $signature));
        self::assertSame('WebhookVerificationError', $verified(self::SECRET, $now + 1, $signature));
    }

    /**
     * @dataProvider libraries
     * @param list<string> $library
     */
    public function testOursVerifiesTheirs(array $library): void
    {
        $now = time();
        $signature = self::ask($library, ['do' => 'sign', 'secret' => self::SECRET, 'timestamp' => $now]);
        self::assertSame('message', Webhook::verify(self::SECRET, self::BODY, [
            'webhook-id' => 'e1-7', 'webhook-timestamp' => (string) $now, 'webhook-signature' => $signature,
        ])['type']);
    }

    /** @return array<string, array{callable(array<string, string>): array<string, mixed>}> */
    public static function forms(): array
    {
        return [
            'a list of headers' => [fn (array $headers) => $headers],
            '$_SERVER' => [fn (array $headers) => ['REQUEST_METHOD' => 'POST', 'REQUEST_TIME' => 1] + array_combine(
                array_map(fn ($name) => 'HTTP_' . strtr(strtoupper($name), '-', '_'), array_keys($headers)),
                $headers,
            )],
            'lists of values' => [fn (array $headers) => array_map(fn (string $value) => [$value], $headers)],
            'other letters' => [fn (array $headers) => array_change_key_case($headers, CASE_UPPER)],
        ];
    }

    /** @dataProvider forms */
    public function testHeadersComeInAnyForm(callable $form): void
    {
        self::assertSame('message', Webhook::verify(self::SECRET, self::BODY, $form(self::signed()))['type']);
    }

    public function testOneOfSeveralSignaturesAndSecretsIsEnough(): void
    {
        $headers = self::signed();
        $headers['webhook-signature'] = "v1a,x v1,AAAA {$headers['webhook-signature']}";
        self::assertSame('message', Webhook::verify([self::OTHER, self::SECRET], self::BODY, $headers)['type']);
    }

    /** @return array<string, array{array<string, string>, 1?: string}> */
    public static function forgeries(): array
    {
        $signed = self::signed(self::NOW);
        $without = static fn (string $name): array => array_diff_key($signed, [$name => '']);
        $time = static fn (int $time): array => self::signed($time);
        return [
            'another body' => [$signed, self::BODY . ' '],
            'another id' => [['webhook-id' => 'e1-8'] + $signed],
            'another time' => [['webhook-timestamp' => (string) (self::NOW + 1)] + $signed],
            'another version' => [['webhook-signature' => 'v2' . substr($signed['webhook-signature'], 2)] + $signed],
            'an empty signature' => [['webhook-signature' => 'v1,'] + $signed],
            'no id' => [$without('webhook-id')],
            'no time' => [$without('webhook-timestamp')],
            'no signature' => [$without('webhook-signature')],
            'too old' => [$time(self::NOW - 310)],
            'too new' => [$time(self::NOW + 310)],
            'no number' => [['webhook-timestamp' => self::NOW . 'e0'] + $signed],
            'not JSON' => [self::signed(self::NOW, 'text'), 'text'],
        ];
    }

    /**
     * @dataProvider forgeries
     * @param array<string, string> $headers
     */
    public function testAForgeryIsRefused(array $headers, string $body = self::BODY): void
    {
        $this->expectException(BadSignature::class);
        Webhook::verify(self::SECRET, $body, $headers, now: self::NOW);
    }

    public function testTheToleranceIsFiveMinutes(): void
    {
        foreach ([-300 => true, -301 => false, 300 => true, 301 => false] as $off => $good) {
            try {
                Webhook::verify(self::SECRET, self::BODY, self::signed(self::NOW), now: self::NOW + $off);
                self::assertTrue($good, "$off seconds");
            } catch (BadSignature) {
                self::assertFalse($good, "$off seconds");
            }
        }
    }

    public function testASecretThatIsNoneIsAMistakeHere(): void
    {
        $this->expectException(\InvalidArgumentException::class);
        Webhook::verify('whsec_!', self::BODY, self::signed());
    }

    /** @return array<string, string> */
    private static function signed(?int $time = null, string $body = self::BODY): array
    {
        $time ??= time();
        return [
            'webhook-id' => 'e1-7',
            'webhook-timestamp' => (string) $time,
            'webhook-signature' => Webhook::sign(self::SECRET, 'e1-7', $time, $body),
        ];
    }

    /**
     * @param list<string> $library
     * @param array<string, mixed> $request
     */
    private static function ask(array $library, array $request): string
    {
        $process = proc_open($library, [['pipe', 'r'], ['pipe', 'w'], STDERR], $pipes);
        fwrite($pipes[0], json_encode($request + ['id' => 'e1-7', 'body' => self::BODY]));
        fclose($pipes[0]);
        $answer = trim((string) stream_get_contents($pipes[1]));
        proc_close($process);
        return $answer;
    }
}
