<?php

declare(strict_types=1);

namespace Switchboard\Tests\Support;

/** A program that a test started. It is ended when the object goes. */
final class Process
{
    /** Seconds that a test waits for a line before it fails. */
    private const LINE_TIMEOUT = 30;

    /** @var resource */
    private $process;
    /** @var resource */
    private $output;
    private string $said = '';

    /**
     * @param list<string> $command
     * @param array<string, string> $env in place of this process's environment
     * @param int $end the signal that ends it: SIGTERM for a program that has to end its own processes
     */
    public function __construct(array $command, array $env = [], private readonly int $end = SIGKILL)
    {
        $streams = [['file', '/dev/null', 'r'], ['pipe', 'w'], ['redirect', 1]];
        $env += ['PATH' => (string) getenv('PATH')];
        $process = proc_open($command, $streams, $pipes, null, $env);
        if ($process === false) {
            throw new \RuntimeException("$command[0] does not start");
        }
        [$this->process, $this->output] = [$process, $pipes[1]];
    }

    /**
     * Runs a program to its end, and returns what it printed.
     *
     * @param list<string> $command
     * @param array<string, string> $env
     */
    public static function run(array $command, array $env = []): string
    {
        $process = new self($command, $env);
        $output = (string) stream_get_contents($process->output);
        if (($status = proc_close($process->process)) !== 0) {
            throw new \RuntimeException("$command[0] ended with $status:\n$output");
        }
        unset($process->process);
        return $output;
    }

    /**
     * The next line that matches; lines before it are skipped.
     *
     * @return list<string> the match and its groups
     */
    public function line(string $pattern): array
    {
        do {
            [$read, $none] = [[$this->output], null];
            if (stream_select($read, $none, $none, self::LINE_TIMEOUT) !== 1) {
                throw new \RuntimeException("no line matches $pattern:\n$this->said");
            }
            $line = fgets($this->output);
            if ($line === false) {
                throw new \RuntimeException("the program ended before a line that matches $pattern:\n$this->said");
            }
            $this->said .= $line;
        } while (preg_match($pattern, $line, $match) !== 1);
        return $match;
    }

    /** Waits until the program ends; returns the signal that ended it, 0 for none. */
    public function ended(): int
    {
        stream_get_contents($this->output);
        do {
            $status = proc_get_status($this->process);
        } while ($status['running']);
        return $status['termsig'];
    }

    public function kill(): void
    {
        if (isset($this->process)) {
            proc_terminate($this->process, $this->end);
            proc_close($this->process);
            unset($this->process);
        }
    }

    public function __destruct()
    {
        $this->kill();
    }
}
