<?php

declare(strict_types=1);

namespace Switchboard;

/**
 * Makes tokens with which users connect: a JWT (RFC 7519), signed as the server's `[auth]` expects.
 *
 * Send a token over HTTPS, and only to the browser of the user whose identity you have checked.
 */
final class Tokens
{
    /** The shortest secret that the server accepts, in bytes. */
    private const MIN_SECRET = 32;
    /** The longest lifetime, in seconds: a larger number is probably one of milliseconds. */
    private const MAX_LIFETIME = 366 * 86_400;

    /** @param \Closure(string): string $sign */
    private function __construct(
        private readonly string $algorithm,
        private readonly \Closure $sign,
        private readonly int $lifetime,
        private readonly ?string $issuer,
        private readonly ?string $audience,
    ) {
    }

    /**
     * With the server's `secret` (HS256), at least 32 bytes. Line breaks at its end are ignored, so it may be the
     * content of a file.
     *
     * @param int $lifetime seconds; a client asks for another token in time
     * @param ?string $issuer the same value as `issuer` in the server's configuration, if it is set there
     * @param ?string $audience the same value as `audience` there
     */
    public static function fromSecret(
        #[\SensitiveParameter] string $secret,
        int $lifetime = 3_600,
        ?string $issuer = null,
        ?string $audience = null,
    ): self {
        $bytes = rtrim($secret, "\r\n");
        if (strlen($bytes) < self::MIN_SECRET) {
            throw new \InvalidArgumentException('a secret has at least ' . self::MIN_SECRET . ' bytes');
        }
        if (trim($bytes) !== $bytes || strpbrk($bytes, "\r\n") !== false) {
            throw new \InvalidArgumentException('a secret is one line, without white space around it');
        }
        $sign = static fn (string $text): string => hash_hmac('sha256', $text, $bytes, true);
        return new self('HS256', $sign, self::checked($lifetime), $issuer, $audience);
    }

    /**
     * With the private key, in PEM, of the server's `public_key`: RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA). The
     * first two need ext-openssl, and the last ext-sodium.
     *
     * @param int $lifetime seconds; a client asks for another token in time
     * @param ?string $issuer the same value as `issuer` in the server's configuration, if it is set there
     * @param ?string $audience the same value as `audience` there
     */
    public static function fromPrivateKey(
        #[\SensitiveParameter] string $pem,
        int $lifetime = 3_600,
        ?string $issuer = null,
        ?string $audience = null,
    ): self {
        [$algorithm, $sign] = PrivateKey::signer($pem);
        return new self($algorithm, $sign, self::checked($lifetime), $issuer, $audience);
    }

    /**
     * A token for a user.
     *
     * @param array<string, mixed> $claims additional claims of the application
     */
    public function mint(string $user, array $claims = []): string
    {
        if ($user === '') {
            throw new \InvalidArgumentException('a token needs a user');
        }
        // The server needs `iat` to refuse tokens that were made before a revocation.
        $now = time();
        $own = ['iss' => $this->issuer, 'aud' => $this->audience, 'sub' => $user];
        $own += ['iat' => $now, 'exp' => $now + $this->lifetime];
        $payload = array_filter($own, static fn (mixed $value): bool => $value !== null) + $claims;
        $header = self::json(['alg' => $this->algorithm, 'typ' => 'JWT']);
        $signed = self::base64url($header) . '.' . self::base64url(self::json($payload));
        return $signed . '.' . self::base64url(($this->sign)($signed));
    }

    /**
     * Without the key.
     *
     * @return array<string, mixed>
     */
    public function __debugInfo(): array
    {
        return ['algorithm' => $this->algorithm, 'lifetime' => $this->lifetime];
    }

    private static function checked(int $lifetime): int
    {
        if ($lifetime < 1 || $lifetime > self::MAX_LIFETIME) {
            throw new \InvalidArgumentException('a lifetime is in seconds, up to a year');
        }
        return $lifetime;
    }

    /** @param array<string, mixed> $value */
    private static function json(array $value): string
    {
        return json_encode($value, JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE);
    }

    private static function base64url(string $bytes): string
    {
        return rtrim(strtr(base64_encode($bytes), '+/', '-_'), '=');
    }
}
