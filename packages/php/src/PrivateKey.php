<?php

declare(strict_types=1);

namespace Switchboard;

/**
 * Signs with a private key as JSON Web Signatures (RFC 7518, RFC 8037) do.
 *
 * @internal
 */
final class PrivateKey
{
    /** What precedes the 32 bytes of an Ed25519 key in PKCS #8, which the openssl extension of PHP 8.2 cannot use. */
    private const ED25519 = "\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    /** The length of each half of a P-256 signature, in bytes. */
    private const HALF = 32;

    /** @return array{string, \Closure(string): string} the algorithm, and a function that signs */
    public static function signer(#[\SensitiveParameter] string $pem): array
    {
        $der = base64_decode(preg_replace('/-----[A-Z ]+-----|\s/', '', $pem));
        if (str_starts_with($der, self::ED25519)) {
            $secret = sodium_crypto_sign_secretkey(
                sodium_crypto_sign_seed_keypair(substr($der, strlen(self::ED25519), SODIUM_CRYPTO_SIGN_SEEDBYTES)),
            );
            return ['EdDSA', static fn (string $text): string => sodium_crypto_sign_detached($text, $secret)];
        }
        $key = openssl_pkey_get_private($pem);
        $details = $key === false ? [] : openssl_pkey_get_details($key);
        $type = $details['type'] ?? null;
        if ($type === OPENSSL_KEYTYPE_RSA && $details['bits'] >= 2_048) {
            return ['RS256', static fn (string $text): string => self::sign($key, $text)];
        }
        if ($type === OPENSSL_KEYTYPE_EC && $details['ec']['curve_name'] === 'prime256v1') {
            return ['ES256', static fn (string $text): string => self::halves(self::sign($key, $text))];
        }
        throw new \InvalidArgumentException(
            'a private key is in PEM: RSA of at least 2048 bits, P-256, or Ed25519 without a passphrase',
        );
    }

    private static function sign(\OpenSSLAsymmetricKey $key, string $text): string
    {
        if (!openssl_sign($text, $signature, $key, OPENSSL_ALGO_SHA256)) {
            throw new \RuntimeException('the key cannot sign: ' . openssl_error_string());
        }
        return $signature;
    }

    /** The two numbers of an ECDSA signature, side by side; OpenSSL writes them in DER. */
    private static function halves(string $der): string
    {
        // 0x30, length, then for each number 0x02, length, bytes. For P-256 each length is a single byte.
        $first = substr($der, 4, ord($der[3]));
        $second = substr($der, 6 + strlen($first));
        $half = static fn (string $number): string =>
            str_pad(ltrim($number, "\0"), self::HALF, "\0", STR_PAD_LEFT);
        return $half($first) . $half($second);
    }
}
