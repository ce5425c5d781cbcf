<?php

declare(strict_types=1);

namespace Switchboard\Tests;

use PHPUnit\Framework\TestCase;
use Switchboard\Client;
use Switchboard\Exception\Unauthorized;
use Switchboard\Tests\Support\Server;
use Switchboard\Tokens;

/** Tokens with each algorithm, as the real server sees them. */
final class TokensTest extends TestCase
{
    public function testATokenLetsItsUserIn(): void
    {
        $server = new Server();
        // The secret ends with a line break, as the content of a file does.
        $tokens = Tokens::fromSecret(Server::SECRET . "\n");
        (new Client($server->url, $tokens->mint('alice')))->send('@bob', 'hello');
        self::assertSame('alice', $server->client('bob')->history('@alice')->items[0]['from']);
    }

    public function testATokenSaysWhenItEndsFromWhomItIsAndForWhom(): void
    {
        $settings = ['SECRET' => Server::SECRET, 'ISSUER' => 'shop', 'AUDIENCE' => 'chat'];
        $server = new Server(self::env($settings));
        $tokens = Tokens::fromSecret(Server::SECRET, 60, 'shop', 'chat');
        $token = $tokens->mint('alice', ['name' => 'Zoë 🎉', 'sub' => 'mallory']);
        $claims = json_decode(base64_decode(strtr(explode('.', $token)[1], '-_', '+/')), true);
        self::assertSame(['shop', 'chat', 'alice', 60, 'Zoë 🎉'], [
            $claims['iss'], $claims['aud'], $claims['sub'], $claims['exp'] - $claims['iat'], $claims['name'],
        ]);
        (new Client($server->url, $token))->ping();
        $this->expectException(Unauthorized::class);
        (new Client($server->url, Tokens::fromSecret(Server::SECRET, 60, 'shop', 'mail')->mint('alice')))->ping();
    }

    /** @return array<string, array{string, string, string}> the algorithm, the private and the public key */
    public static function keys(): array
    {
        $pair = static function (array $options): array {
            $key = openssl_pkey_new($options);
            openssl_pkey_export($key, $private);
            return [$private, openssl_pkey_get_details($key)['key']];
        };
        $pem = static fn (string $kind, string $der): string =>
            "-----BEGIN $kind KEY-----\n" . base64_encode($der) . "\n-----END $kind KEY-----\n";
        $seed = random_bytes(SODIUM_CRYPTO_SIGN_SEEDBYTES);
        $public = sodium_crypto_sign_publickey(sodium_crypto_sign_seed_keypair($seed));
        return [
            'RSA' => ['RS256', ...$pair(['private_key_type' => OPENSSL_KEYTYPE_RSA, 'private_key_bits' => 2048])],
            'P-256' => ['ES256', ...$pair(['private_key_type' => OPENSSL_KEYTYPE_EC, 'curve_name' => 'prime256v1'])],
            'Ed25519' => [
                'EdDSA',
                $pem('PRIVATE', hex2bin('302e020100300506032b657004220420') . $seed),
                $pem('PUBLIC', hex2bin('302a300506032b6570032100') . $public),
            ],
        ];
    }

    /** @dataProvider keys */
    public function testAPrivateKeySigns(string $algorithm, string $private, string $public): void
    {
        $server = new Server(self::env(['PUBLIC_KEY' => $public]));
        $tokens = Tokens::fromPrivateKey($private);
        // The numbers of a signature of P-256 have different lengths from one token to the next.
        for ($number = 0; $number < 40; $number++) {
            $token = $tokens->mint("user-$number");
            (new Client($server->url, $token))->ping();
        }
        $header = json_decode(base64_decode(strtr(explode('.', $token)[0], '-_', '+/')), true);
        self::assertSame($algorithm, $header['alg']);
    }

    public function testATokenThatNoServerWouldTakeIsNotMade(): void
    {
        $small = openssl_pkey_new(['private_key_type' => OPENSSL_KEYTYPE_RSA, 'private_key_bits' => 1024]);
        openssl_pkey_export($small, $pem);
        $wrong = [
            'a short secret' => fn () => Tokens::fromSecret('short'),
            'a secret with a space' => fn () => Tokens::fromSecret(' ' . Server::SECRET),
            'no user' => fn () => Tokens::fromSecret(Server::SECRET)->mint(''),
            'milliseconds' => fn () => Tokens::fromSecret(Server::SECRET, 3_600_000_000),
            'a short key' => fn () => Tokens::fromPrivateKey($pem),
            'no key' => fn () => Tokens::fromPrivateKey('nothing'),
        ];
        foreach ($wrong as $what => $make) {
            try {
                $make();
                self::fail($what);
            } catch (\InvalidArgumentException $failure) {
                self::assertNotEmpty($failure->getMessage());
            }
        }
    }

    public function testTheSecretIsNotPrinted(): void
    {
        self::assertStringNotContainsString(Server::SECRET, print_r(Tokens::fromSecret(Server::SECRET), true));
    }

    /**
     * @param array<string, string> $settings
     * @return array<string, string>
     */
    private static function env(array $settings): array
    {
        $names = array_map(static fn (string $name): string => "SWITCHBOARD_AUTH_$name", array_keys($settings));
        return array_combine($names, $settings);
    }
}
