<?php

declare(strict_types=1);

namespace Switchboard\Tests;

use PHPUnit\Framework\TestCase;
use Switchboard\Client;
use Switchboard\Exception;
use Switchboard\Role;
use Switchboard\Tests\Support\Server;

/** The client against the real server. */
final class ClientTest extends TestCase
{
    private static Server $server;

    public static function setUpBeforeClass(): void
    {
        self::$server = new Server();
    }

    public function testAMessageIsStoredOnceForItsKey(): void
    {
        $shop = self::$server->client();
        $first = $shop->send('@anna', 'On its way.', ['order' => 17], key: 'order-17');
        self::assertSame(['@anna:shop', 1, false], [$first->conversation, $first->seq, $first->duplicate]);
        self::assertSame(1, preg_match('/^\d{4}-\d\d-\d\dT.*Z$/', $first->at));
        $again = $shop->send('@anna', 'On its way.', ['order' => 17], key: 'order-17');
        self::assertSame([1, true, $first->at], [$again->seq, $again->duplicate, $again->at]);
        $this->expectException(Exception\KeyConflict::class);
        $shop->send('@anna', 'Another text.', key: 'order-17');
    }

    public function testDataIsAnObjectWhateverPhpMakesOfIt(): void
    {
        $shop = self::$server->client();
        $shop->send('@dora', data: []);
        $shop->send('@dora', data: (object) ['a' => 1.0, 'list' => [1, 2]]);
        $shop->send('@dora', data: ['first', 'second']);
        $messages = $shop->history('@dora')->items;
        self::assertSame([], $messages[0]['data']);
        self::assertEquals(['a' => 1.0, 'list' => [1, 2]], $messages[1]['data']);
        self::assertSame(['first', 'second'], array_values($messages[2]['data']));
    }

    public function testEachCommandOfARoom(): void
    {
        $shop = self::$server->client();
        $room = $shop->room('tour');
        $room->create('A tour', public: true, members: ['bob']);
        self::assertTrue($room->create('A tour', public: true, members: ['bob'])->duplicate);
        self::assertSame(2, $room->invite('carol', Role::Reader)->seq);
        self::assertSame(3, $room->role('carol', Role::Member)->seq);
        self::assertSame(4, $room->rename('The tour')->seq);
        $bob = $shop->as('bob')->conversation('#tour');
        $bob->typing();
        self::assertSame(5, $bob->send('hello')->seq);
        self::assertSame(6, $room->send('welcome', replyTo: 5)->seq);
        self::assertSame(7, $bob->edit(5, 'hello, all')->seq);
        self::assertSame(8, $room->react(5, '👍')->seq);
        self::assertSame(9, $room->react(5, '👍', on: false)->seq);
        self::assertSame(10, $room->delete(6)->seq);
        self::assertSame(11, $shop->as('dave')->join('#tour')->seq);
        self::assertSame(12, $shop->as('dave')->room('tour')->leave()->seq);
        self::assertSame(13, $room->remove('carol')->seq);
        self::assertSame(14, $shop->settings('#tour', slow: 1_000, rejoin: false)->seq);
        self::assertSame(15, $shop->role('#tour', 'bob', Role::Reader, '2031-01-01T00:00:00Z')->seq);
        self::assertSame(16, $shop->remove('#tour', 'eve', ban: true)->seq);
        self::assertSame(13, $bob->read(13));
        self::assertSame(13, $shop->as('bob')->received('#tour', 5));
        $types = ['create', 'invite', 'role', 'rename', 'message', 'message', 'edit', 'react', 'react', 'delete'];
        self::assertSame(
            [...$types, 'join', 'leave', 'remove', 'settings', 'role', 'remove'],
            array_column(iterator_to_array($room->events(), false), 'type'),
        );
        $messages = iterator_to_array($room->messages());
        self::assertSame([6, 5], array_keys($messages));
        self::assertSame(['hello, all', true], [$messages[5]['text'], $messages[6]['deleted']]);
        self::assertSame(['shop', 'bob'], array_keys(iterator_to_array($room->members())));
        self::assertSame([5], array_column($shop->history('#tour', around: 5, limit: 2)->items, 'seq'));
    }

    public function testPagesAreLoadedToTheEnd(): void
    {
        $shop = self::$server->client('librarian');
        $library = $shop->room('library');
        $library->create();
        for ($number = 1; $number <= 250; $number++) {
            $library->send("book $number");
        }
        self::assertCount(250, iterator_to_array($library->messages(), false));
        self::assertSame(range(1, 251), array_keys(iterator_to_array($library->events())));
        self::assertSame(['#library'], array_keys(iterator_to_array($shop->user('librarian')->conversations())));
    }

    public function testEachCallOfTheServerHasAMethodAndOneOfTheApplicationHasNoAs(): void
    {
        $document = json_decode(file_get_contents(self::$server->url . '/v1/openapi.json'), true);
        $calls = array_filter(array_map(fn (array $path): ?array => $path['post'] ?? null, $document['paths']));
        $ofTheApplication = [];
        foreach ($calls as $path => $call) {
            $name = substr($path, strlen('/v1/'));
            $method = lcfirst(str_replace(['_', '/'], '', ucwords($name, '_/')));
            self::assertTrue(method_exists(Client::class, $method) || $name === 'feed', $name);
            if (!str_contains(json_encode($call['requestBody']), '"as"')) {
                $ofTheApplication[] = $name;
            }
        }
        self::assertContains('revoke', $ofTheApplication);
        $known = (new \ReflectionClassConstant(Client::class, 'OF_THE_APPLICATION'))->getValue();
        self::assertEqualsCanonicalizing($ofTheApplication, $known);
    }

    public function testAUserIsLoggedOutEverywhere(): void
    {
        $tokens = \Switchboard\Tokens::fromSecret(Server::SECRET);
        $eve = new Client(self::$server->url, $tokens->mint('eve'));
        $eve->ping();
        self::$server->client()->user('eve')->revoke();
        $this->expectException(Exception\Unauthorized::class);
        $eve->ping();
    }

    public function testEachFailureHasAClass(): void
    {
        $shop = self::$server->client();
        $shop->create('errors', 'Errors', members: ['bob']);
        $failures = [
            Exception\NotFound::class => fn () => $shop->history('#nowhere'),
            Exception\Forbidden::class => fn () => $shop->as('bob')->rename('#errors', 'Mine'),
            Exception\BadField::class => fn () => $shop->send('@bob', ''),
            Exception\AlreadyExists::class => fn () => $shop->create('errors', 'Others'),
            Exception\BadCursor::class => fn () => $shop->read('#errors', 99),
            Exception\TooLarge::class => fn () => $shop->send('@bob', str_repeat('x', 20_000)),
            Exception\UnknownType::class => fn () => $shop->command('dance'),
            Exception\Unauthorized::class => fn () => (new Client(self::$server->url, 'sbk_wrong', 'shop'))->ping(),
        ];
        foreach ($failures as $class => $call) {
            try {
                $call();
                self::fail("no $class");
            } catch (Exception\ChatException $failure) {
                self::assertInstanceOf($class, $failure);
                self::assertFalse($failure->retryable);
                self::assertNotEmpty($failure->getMessage());
                self::assertNotEmpty($failure->requestId);
                self::assertSame($failure->getCode(), $failure->status);
            }
        }
    }

    public function testTheFieldAtFaultIsNamed(): void
    {
        try {
            self::$server->client()->rename('#errors', '');
            self::fail('an empty title');
        } catch (Exception\BadField $failure) {
            self::assertSame(['bad_field', 'title', 400], [$failure->errorCode, $failure->field, $failure->status]);
        }
    }

    public function testWhatIsNotJsonIsRefusedBeforeItIsSent(): void
    {
        $this->expectException(\InvalidArgumentException::class);
        $this->expectExceptionMessage('UTF-8');
        self::$server->client()->send('@bob', "\xff");
    }

    /** @return array<string, array{string, string}> */
    public static function wrongAccess(): array
    {
        return [
            'another scheme' => ['ftp://chat.example', 'sbk_1'],
            'no host' => ['http://', 'sbk_1'],
            'a query' => ['http://chat.example/?a=1', 'sbk_1'],
            'no key' => ['http://chat.example', ''],
            'a header in the key' => ['http://chat.example', "sbk_1\r\nx: y"],
        ];
    }

    /** @dataProvider wrongAccess */
    public function testAWrongAddressOrKeyIsRefusedAtOnce(string $url, string $key): void
    {
        $this->expectException(\InvalidArgumentException::class);
        new Client($url, $key);
    }

    public function testTheAddressOfTheSocketWillDo(): void
    {
        $url = preg_replace('/^http/', 'ws', self::$server->url) . '/v1/ws';
        (new Client($url, self::$server->key, 'shop'))->ping();
        $this->addToAssertionCount(1);
    }

    public function testTheKeyIsNotPrinted(): void
    {
        self::assertStringNotContainsString(self::$server->key, print_r(self::$server->client(), true));
    }
}
