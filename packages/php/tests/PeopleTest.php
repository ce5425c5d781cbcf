<?php

declare(strict_types=1);

namespace Switchboard\Tests;

use PHPUnit\Framework\TestCase;
use Switchboard\Client;
use Switchboard\Exception;
use Switchboard\Tests\Support\Server;
use Switchboard\Tokens;

/** Profiles on the real server. */
final class PeopleTest extends TestCase
{
    private static Server $server;
    private static Client $admin;

    public static function setUpBeforeClass(): void
    {
        $settings = ['SWITCHBOARD_PROFILES_SELF' => 'true', 'SWITCHBOARD_PERMISSIONS_DIRECTORY' => 'all'];
        self::$server = new Server(['SWITCHBOARD_AUTH_SECRET' => Server::SECRET] + $settings);
        self::$admin = self::$server->admin();
    }

    public function testTheApplicationChangesManyProfilesAtOnce(): void
    {
        self::$admin->profiles([
            ['user' => 'usr_1', 'name' => 'Ana María López', 'data' => ['tier' => 'gold']],
            ['user' => 'usr_2', 'name' => 'Bob', 'data' => []],
        ]);
        [$bob, $ana] = self::$admin->users(['usr_2', 'usr_1'])->items;
        self::assertSame(['usr_2', 'Bob', []], [$bob['user'], $bob['name'], $bob['data']]);
        self::assertSame(['usr_1', 'Ana María López', ['tier' => 'gold']], [$ana['user'], $ana['name'], $ana['data']]);
        self::$admin->profiles([['user' => 'usr_1', 'data' => null]]);
        [$ana] = self::$admin->users(['usr_1'])->items;
        self::assertSame(['Ana María López', false], [$ana['name'], isset($ana['data'])]);
        self::assertSame(['usr_1'], array_column(self::$admin->findUsers('lop', limit: 5)->items, 'user'));
    }

    public function testUsersAndRoomsAreListedAndManyUsersGetAMessage(): void
    {
        $users = array_map(static fn (int $number): string => "list_$number", range(0, 59));
        self::$admin->profiles(array_map(static fn (string $user): array => ['user' => $user], $users));
        self::assertSame($users, array_keys(iterator_to_array(self::$admin->listUsers(match: 'list_*'))));
        self::assertSame([], iterator_to_array(self::$admin->listUsers(match: 'list_*', active: false)));
        self::$admin->create('list-1', members: [$users[0], $users[1]]);
        $rooms = iterator_to_array(self::$admin->listRooms(match: '#list-*', member: $users[0], public: false));
        self::assertSame(3, $rooms['#list-1']['members']);
        $some = array_slice($users, 0, 3);
        $sent = self::$admin->sendMany($some, key: 'sale-1', text: 'Sale!', data: ['code' => 'S1']);
        self::assertSame($some, array_column($sent, 'user'));
        self::assertSame([1, 1, 1], array_column($sent, 'seq'));
        $again = self::$admin->sendMany($some, key: 'sale-1', text: 'Sale!', data: ['code' => 'S1']);
        self::assertSame([true, true, true], array_column($again, 'duplicate'));
        [$first, $last] = self::$admin->unread([$users[0], $users[59]]);
        self::assertSame([1, 1, false], [$first['messages'], $first['conversations'], $first['online']]);
        self::assertSame([$users[59], 0], [$last['user'], $last['messages']]);
    }

    public function testARenamedUserIsFoundUnderTheNewId(): void
    {
        self::$admin->as('rename_1')->send('@shop', 'hi');
        self::$admin->renameUser('rename_1', 'rename_2');
        $messages = iterator_to_array(self::$admin->conversation('@rename_2')->messages(), false);
        self::assertSame(['rename_2'], array_column($messages, 'from'));
    }

    public function testABannedUserIsRefusedUntilTheBanEnds(): void
    {
        self::$admin->ban('banned_1', new \DateTimeImmutable('2035-01-01T00:00:00Z'), 'spam', 'see #42');
        try {
            self::$admin->as('banned_1')->send('@shop', 'hi');
            self::fail('a banned user wrote');
        } catch (Exception\Banned $banned) {
            self::assertSame('spam', $banned->getMessage());
        }
        self::assertSame(['banned_1' => 'see #42'], array_map(
            static fn (array $ban): string => $ban['note'],
            iterator_to_array(self::$admin->bans()),
        ));
        self::$admin->unban('banned_1');
        self::$admin->as('banned_1')->send('@shop', 'hi');
        self::assertSame([], iterator_to_array(self::$admin->bans()));
    }

    public function testAReportIsListedAndDecidedOnce(): void
    {
        $sent = self::$admin->as('reported_1')->send('@shop', 'spam');
        $report = self::$admin->as('shop')->report('spam', user: 'reported_1', text: 'again');
        $open = iterator_to_array(self::$admin->reports('open', 'reported_1'));
        $around = self::$admin->moderateHistory($sent->conversation, $sent->seq, 'a report', as: 'shop');
        self::assertSame(['spam'], array_column($around, 'text'));
        self::assertSame('again', $open[$report]['reporters'][0]['text']);
        self::$admin->resolve($report, 'none', note: 'a joke', as: 'shop');
        self::assertSame('a joke', iterator_to_array(self::$admin->reports('done'))[$report]['note']);
        $this->expectException(Exception\AlreadyExists::class);
        self::$admin->resolve($report, 'none', as: 'shop');
    }

    public function testAMessageUnderAShadowBanIsHeldUntilItIsReleased(): void
    {
        self::$admin->ban('shadow_1', note: 'see #43', shadow: true);
        self::assertTrue(iterator_to_array(self::$admin->bans())['shadow_1']['shadow']);
        $shadowed = self::$admin->as('shadow_1');
        $held = $shadowed->send('@shop', 'hi', key: 'k1');
        self::assertSame([null, true, false], [$held->seq, $held->held, $held->duplicate]);
        [$report] = array_values(iterator_to_array(self::$admin->reports('open', 'shadow_1')));
        self::assertSame([true, 'hi'], [$report['held'], $report['snapshot']['text']]);
        self::$admin->resolve($report['report'], 'release', as: 'shop');
        self::assertSame(1, $shadowed->send('@shop', 'hi', key: 'k1')->seq);
        self::$admin->unban('shadow_1');
    }

    public function testADeletedRoomIsGoneAndItsIdIsNeverGivenAgain(): void
    {
        $shop = self::$admin->as('shop');
        $shop->create('deleted_1');
        $end = self::$admin->deleteRoom('#deleted_1', 'shop');
        self::assertSame(['#deleted_1', 2, false], [$end->conversation, $end->seq, $end->duplicate]);
        self::assertTrue(self::$admin->deleteRoom('#deleted_1')->duplicate);
        $this->expectException(Exception\AlreadyExists::class);
        $shop->create('deleted_1');
    }

    public function testAUserChangesWhatIsNamedAndRemovesWhatIsNull(): void
    {
        $eve = new Client(self::$server->url, Tokens::fromSecret(Server::SECRET)->mint('eve'));
        $version = $eve->profile(name: 'Eve', data: ['team' => 'red']);
        self::assertGreaterThan($version, $eve->profile(data: null));
        [$profile] = $eve->users(['eve'])->items;
        self::assertSame(['Eve', false], [$profile['name'], isset($profile['data'])]);
        $this->expectException(\InvalidArgumentException::class);
        $eve->profile('Eve');
    }

    public function testAUserWhoIsGoneIsRefusedUntilTheyAreBack(): void
    {
        $dan = new Client(self::$server->url, Tokens::fromSecret(Server::SECRET)->mint('dan'));
        $dan->ping();
        self::$admin->profiles([['user' => 'dan', 'active' => false]]);
        try {
            $dan->ping();
            self::fail('the token was accepted');
        } catch (Exception\Unauthorized) {
            self::$admin->profiles([['user' => 'dan', 'active' => true]]);
        }
        $dan->ping();
        $this->addToAssertionCount(1);
    }

    public function testAKeyWithoutTheScopeIsRefused(): void
    {
        try {
            self::$server->client()->profiles([['user' => 'usr_1', 'name' => 'Mallory']]);
            self::fail('the key changed a profile');
        } catch (Exception\Forbidden $failure) {
            self::assertSame('people', $failure->details['permission']);
        }
    }

    public function testTheProfileAtFaultIsNamed(): void
    {
        try {
            self::$admin->profiles([['user' => 'usr_3', 'name' => 'Zoë'], ['user' => 'usr_4', 'name' => ' ']]);
            self::fail('an empty name');
        } catch (Exception\BadField $failure) {
            self::assertSame('profiles[1].name', $failure->field);
            self::assertSame([], self::$admin->findUsers('zoë')->items, 'none of them is stored');
        }
    }

    public function testTheHistoryOfAnotherSystemIsImportedOnce(): void
    {
        $lines = [
            ['create' => '#php-9', 'at' => '2019-03-01T09:00:00Z', 'from' => 'shop', 'members' => ['bob']],
            ['to' => '#php-9', 'from' => 'bob', 'at' => '2019-03-01T09:00:01Z', 'key' => 'm17', 'text' => 'Grüße'],
        ];
        self::assertSame(['stored' => 2, 'duplicates' => 0], self::$admin->import($lines));
        self::assertSame(['stored' => 0, 'duplicates' => 2], self::$admin->import($lines));
        self::assertSame(['stored' => 0, 'duplicates' => 0], self::$admin->import([]));
        $this->expectException(Exception\NotFound::class);
        self::$admin->import([['to' => '#nowhere', 'key' => 'new'] + $lines[1]]);
    }
}
