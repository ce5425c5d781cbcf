<?php

declare(strict_types=1);

namespace Switchboard\Tests\Support;

/** A directory of a test, deleted when the object goes. */
final class Directory
{
    public readonly string $path;

    public function __construct()
    {
        $this->path = sys_get_temp_dir() . '/switchboard-php-' . bin2hex(random_bytes(8));
        mkdir($this->path, 0700);
    }

    public function __destruct()
    {
        $everything = new \RecursiveIteratorIterator(
            new \RecursiveDirectoryIterator($this->path, \FilesystemIterator::SKIP_DOTS),
            \RecursiveIteratorIterator::CHILD_FIRST,
        );
        foreach ($everything as $file) {
            $file->isDir() && !$file->isLink() ? rmdir($file->getPathname()) : unlink($file->getPathname());
        }
        rmdir($this->path);
    }
}
