<?php

declare(strict_types=1);

namespace Switchboard\Tests;

use PHPUnit\Framework\TestCase;
use Switchboard\Tests\Support\Directory;
use Switchboard\Tests\Support\Process;
use Switchboard\Webhook;

/** The handlers where applications run: `php -S`, php-fpm behind nginx, Debian's Symfony and Laravel. */
final class FrameworksTest extends TestCase
{
    private const SECRET = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
    private const FPM = <<<'CONF'
        [global]
        daemonize = no
        error_log = /dev/stderr
        [app]
        listen = %1$s/fpm
        pm = static
        pm.max_children = 2
        clear_env = no
        CONF;
    private const NGINX = <<<'CONF'
        daemon off;
        # Workers that may enter the test's directory; without effect for another user than root.
        user root;
        pid %1$s/nginx.pid;
        error_log stderr notice;
        events {}
        http {
          access_log off;
          client_body_temp_path %1$s/body;
          proxy_temp_path %1$s/proxy;
          fastcgi_temp_path %1$s/fastcgi;
          uwsgi_temp_path %1$s/uwsgi;
          scgi_temp_path %1$s/scgi;
          server {
            listen unix:%1$s/nginx;
            location / {
              include /etc/nginx/fastcgi_params;
              fastcgi_param SCRIPT_FILENAME %2$s;
              fastcgi_pass unix:%1$s/fpm;
            }
          }
        }
        CONF;

    private Directory $directory;

    protected function setUp(): void
    {
        $this->directory = new Directory();
    }

    public function testTheServerOfPhp(): void
    {
        $script = __DIR__ . '/Support/hook.php';
        $server = new Process([PHP_BINARY, '-S', '127.0.0.1:0', $script], $this->env());
        $this->tryHook([CURLOPT_URL => $server->line('#\((http://\S+)\) started#')[1]]);
    }

    public function testPhpFpmBehindNginx(): void
    {
        $path = $this->directory->path;
        file_put_contents("$path/fpm.conf", sprintf(self::FPM, $path));
        file_put_contents("$path/nginx.conf", sprintf(self::NGINX, $path, __DIR__ . '/Support/hook.php'));
        $version = PHP_MAJOR_VERSION . '.' . PHP_MINOR_VERSION;
        $command = [self::program("php-fpm$version"), '-F', '-R', '-y', "$path/fpm.conf"];
        $fpm = new Process($command, $this->env(), SIGTERM);
        $fpm->line('/ready to handle connections/');
        $nginx = new Process([self::program('nginx'), '-c', "$path/nginx.conf", '-p', $path], [], SIGTERM);
        $nginx->line('/start worker process \d/');
        $this->tryHook([CURLOPT_URL => 'http://localhost/', CURLOPT_UNIX_SOCKET_PATH => "$path/nginx"]);
    }

    public function testSymfony(): void
    {
        self::assertSame('200 {"action":"refuse","message":"Not here."}', $this->inFramework('symfony'));
    }

    public function testLaravel(): void
    {
        self::assertSame('200 {"action":"refuse","message":"Not here."}', $this->inFramework('laravel'));
    }

    /** Sends a signed question to an application in a process of its own, because of its autoloader. */
    private function inFramework(string $name): string
    {
        [$body, $headers] = self::signed('ask.message', ['user' => 'alice', 'message' => ['text' => 'spam']]);
        $request = json_encode(['body' => $body, 'headers' => $headers]);
        return Process::run([PHP_BINARY, __DIR__ . "/Support/$name.php", $request], $this->env());
    }

    /** @param array<int, mixed> $address options of curl */
    private function tryHook(array $address): void
    {
        $ask = fn (?string $text): array => $this->post($address, 'ask.message', [
            'user' => 'alice', 'conversation' => '#general', 'message' => ['text' => $text],
        ]);
        $open = $this->post($address, 'ask.open', ['user' => 'alice']);
        self::assertSame([200, '{"action":"accept","profile":{"name":"Alice"},"join":["#general"]}'], $open);
        self::assertSame([204, ''], $ask('hello'));
        self::assertSame([200, '{"action":"refuse","message":"No advertisements here."}'], $ask('spam'));
        self::assertSame([200, '{"action":"replace","text":"d***","data":null}'], $ask('damn'));
        self::assertSame(500, $ask('crash')[0]);
        self::assertSame(204, $this->post($address, 'user.offline', ['type' => 'user.offline', 'user' => 'alice'])[0]);
        self::assertSame('alice', file_get_contents("{$this->directory->path}/log"));
        self::assertSame(503, $this->post($address, 'ask.open', ['user' => 'eve'], 'whsec_AAAA')[0]);
        self::assertSame(405, self::exchange([CURLOPT_HTTPGET => true] + $address)[0]);
    }

    /**
     * @param array<int, mixed> $address
     * @param array<string, mixed> $data
     * @return array{int, string}
     */
    private function post(array $address, string $type, array $data, string $secret = self::SECRET): array
    {
        [$body, $headers] = self::signed($type, $data, $secret);
        $lines = array_map(static fn ($name, $value) => "$name: $value", array_keys($headers), $headers);
        return self::exchange([CURLOPT_POSTFIELDS => $body, CURLOPT_HTTPHEADER => $lines] + $address);
    }

    /**
     * @param array<int, mixed> $options
     * @return array{int, string}
     */
    private static function exchange(array $options): array
    {
        $handle = curl_init();
        curl_setopt_array($handle, $options + [CURLOPT_RETURNTRANSFER => true, CURLOPT_TIMEOUT => 30]);
        $body = curl_exec($handle);
        self::assertNotFalse($body, curl_error($handle));
        return [curl_getinfo($handle, CURLINFO_RESPONSE_CODE), $body];
    }

    /**
     * @param array<string, mixed> $data
     * @return array{string, array<string, string>}
     */
    private static function signed(string $type, array $data, string $secret = self::SECRET): array
    {
        $body = json_encode(['type' => $type, 'timestamp' => '2026-11-24T17:54:04.010Z', 'data' => $data]);
        return [$body, [
            'content-type' => 'application/json',
            'webhook-id' => 'e1-7',
            'webhook-timestamp' => (string) time(),
            'webhook-signature' => Webhook::sign($secret, 'e1-7', time(), $body),
        ]];
    }

    /** @return array<string, string> */
    private function env(): array
    {
        return ['HOOK_SECRET' => self::SECRET, 'HOOK_LOG' => "{$this->directory->path}/log"];
    }

    /** Debian has these in /usr/sbin, which is not in every PATH. */
    private static function program(string $name): string
    {
        return is_executable("/usr/sbin/$name") ? "/usr/sbin/$name" : $name;
    }
}
