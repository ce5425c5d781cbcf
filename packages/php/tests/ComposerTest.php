<?php

declare(strict_types=1);

namespace Switchboard\Tests;

use PHPUnit\Framework\TestCase;
use Switchboard\Tests\Support\Directory;
use Switchboard\Tests\Support\Process;
use Switchboard\Tests\Support\Server;

/** The package in a project of Composer's, without a network. */
final class ComposerTest extends TestCase
{
    public function testComposerInstallsAndLoadsThePackage(): void
    {
        $directory = new Directory();
        $package = ['type' => 'path', 'url' => dirname(__DIR__), 'options' => ['symlink' => false]];
        file_put_contents("$directory->path/composer.json", json_encode([
            'repositories' => [$package, ['packagist.org' => false]],
            'require' => ['switchboard/client' => '*@dev'],
        ]));
        $env = ['COMPOSER_ALLOW_SUPERUSER' => '1', 'COMPOSER_HOME' => $directory->path, 'HOME' => $directory->path];
        Process::run(['composer', 'install', '--no-interaction', "--working-dir=$directory->path"], $env);
        $script = 'require $argv[1]; echo substr_count(Switchboard\Tokens::fromSecret($argv[2])->mint("alice"), ".");';
        $autoload = "$directory->path/vendor/autoload.php";
        self::assertSame('2', Process::run([PHP_BINARY, '-r', $script, $autoload, Server::SECRET]));
    }
}
