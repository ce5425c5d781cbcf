"""Profiles on the real server."""

import unittest

from switchboard import (
    AlreadyExists,
    BadField,
    Banned,
    Client,
    Forbidden,
    ImportLine,
    NotFound,
    Unauthorized,
    mint_token,
)

from .support import SECRET, Server


class PeopleTest(unittest.TestCase):
    server: Server
    admin: Client

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = Server(SWITCHBOARD_PROFILES_SELF="true", SWITCHBOARD_PERMISSIONS_DIRECTORY="all")
        cls.addClassCleanup(cls.server.close)
        cls.admin = cls.server.admin()

    def test_the_application_changes_many_profiles_at_once(self) -> None:
        self.admin.profiles(
            [{"user": "usr_1", "name": "Ana María López", "data": {"tier": "gold"}}, {"user": "usr_2", "name": "Bob"}]
        )
        bob, ana = self.admin.users(["usr_2", "usr_1"])
        self.assertEqual((bob["name"], ana["name"], ana["data"]), ("Bob", "Ana María López", {"tier": "gold"}))
        self.admin.profiles([{"user": "usr_1", "data": None}])
        [ana] = self.admin.users(["usr_1"])
        self.assertEqual((ana["name"], "data" in ana), ("Ana María López", False))
        self.assertEqual([found["user"] for found in self.admin.find_users("lop", limit=5)], ["usr_1"])

    def test_a_user_changes_what_is_named_and_removes_what_is_none(self) -> None:
        eve = Client(self.server.url, mint_token(SECRET, "eve"))
        version = eve.profile(name="Eve", data={"team": "red"})
        self.assertGreater(eve.profile(data=None), version)
        [profile] = eve.users(["eve"])
        self.assertEqual((profile["name"], "data" in profile), ("Eve", False))

    def test_a_user_who_is_gone_is_refused_until_they_are_back(self) -> None:
        dan = Client(self.server.url, mint_token(SECRET, "dan"))
        dan.ping()
        self.admin.profiles([{"user": "dan", "active": False}])
        with self.assertRaises(Unauthorized):
            dan.ping()
        self.admin.profiles([{"user": "dan", "active": True}])
        dan.ping()

    def test_a_key_without_the_scope_is_refused(self) -> None:
        with self.assertRaises(Forbidden) as caught:
            self.server.client().profiles([{"user": "usr_1", "name": "Mallory"}])
        self.assertEqual(caught.exception.details["permission"], "people")

    def test_users_and_rooms_are_listed_and_many_users_get_a_message(self) -> None:
        users = [f"list_{number}" for number in range(60)]
        self.admin.profiles([{"user": user} for user in users])
        self.assertEqual([listed["user"] for listed in self.admin.list_users(match="list_*")], users)
        shop = self.admin.as_user("shop")
        shop.create("list-1", members=users[:2])
        [room] = self.admin.list_rooms(match="#list-*", member=users[0], public=False)
        self.assertEqual((room["conversation"], room["members"]), ("#list-1", 3))
        sent = shop.send_many(users[:3], "sale-1", "Sale!", data={"code": "S1"})
        self.assertEqual([(result["user"], result["seq"]) for result in sent], [(user, 1) for user in users[:3]])
        again = shop.send_many(users[:3], "sale-1", "Sale!", data={"code": "S1"})
        self.assertTrue(all(result["duplicate"] for result in again))
        first, last = self.admin.unread([users[0], users[59]])
        self.assertEqual((first["messages"], first["conversations"], first["online"]), (1, 1, False))
        self.assertEqual((last["user"], last["messages"]), (users[59], 0))

    def test_a_renamed_user_is_found_under_the_new_id(self) -> None:
        self.admin.as_user("rename_1").send("@shop", "hi")
        self.admin.rename_user("rename_1", "rename_2")
        self.assertEqual([message["from"] for message in self.admin.all_messages("@rename_2")], ["rename_2"])

    def test_a_banned_user_is_refused_until_the_ban_ends(self) -> None:
        self.admin.ban("banned_1", until="2035-01-01T00:00:00Z", reason="spam", note="see #42")
        with self.assertRaises(Banned) as caught:
            self.admin.as_user("banned_1").send("@shop", "hi")
        self.assertEqual((str(caught.exception), caught.exception.details["until"]), ("spam", "2035-01-01T00:00:00.000Z"))
        self.assertEqual([(ban["user"], ban["note"]) for ban in self.admin.bans()], [("banned_1", "see #42")])
        self.admin.unban("banned_1")
        self.admin.as_user("banned_1").send("@shop", "hi")
        self.assertEqual(list(self.admin.bans()), [])

    def test_a_report_is_listed_and_decided_once(self) -> None:
        sent = self.admin.as_user("reported_1").send("@shop", "spam")
        report = self.admin.as_user("shop").report("spam", user="reported_1", text="again")
        (listed,) = self.admin.reports(state="open", user="reported_1")
        assert sent.seq is not None
        around = self.admin.moderate_history(sent.conversation, sent.seq, "a report", by="shop")
        self.assertEqual([message["text"] for message in around], ["spam"])
        self.assertEqual(listed["reporters"][0]["text"], "again")
        self.admin.resolve(report, "none", note="a joke", by="shop")
        self.assertIn("a joke", [one.get("note") for one in self.admin.reports(state="done")])
        with self.assertRaises(AlreadyExists):
            self.admin.resolve(report, "none", by="shop")

    def test_a_message_under_a_shadow_ban_is_held_until_it_is_released(self) -> None:
        self.admin.ban("shadow_1", note="see #43", shadow=True)
        self.assertEqual([(ban["user"], ban["shadow"]) for ban in self.admin.bans()], [("shadow_1", True)])
        shadowed = self.admin.as_user("shadow_1")
        held = shadowed.send("@shop", "hi", key="k1")
        self.assertEqual((held.seq, held.held, held.duplicate), (None, True, False))
        (report,) = self.admin.reports(state="open", user="shadow_1")
        self.assertEqual((report["held"], report["snapshot"]["text"]), (True, "hi"))
        self.admin.resolve(report["report"], "release", by="shop")
        self.assertEqual(shadowed.send("@shop", "hi", key="k1").seq, 1)
        self.admin.unban("shadow_1")

    def test_a_deleted_room_is_gone_and_its_id_is_never_given_again(self) -> None:
        shop = self.admin.as_user("shop")
        shop.create(room="deleted_1")
        end = self.admin.delete_room("#deleted_1", by="shop")
        self.assertEqual((end.conversation, end.seq, end.duplicate), ("#deleted_1", 2, False))
        self.assertTrue(self.admin.delete_room("#deleted_1").duplicate)
        with self.assertRaises(AlreadyExists):
            shop.create(room="deleted_1")

    def test_the_profile_at_fault_is_named(self) -> None:
        with self.assertRaises(BadField) as caught:
            self.admin.profiles([{"user": "usr_3", "name": "Zoë"}, {"user": "usr_4", "name": " "}])
        self.assertEqual(caught.exception.field, "profiles[1].name")
        self.assertEqual(list(self.admin.find_users("zoë")), [], "none of them is stored")

    def test_the_history_of_another_system_is_imported_once(self) -> None:
        lines: list[ImportLine] = [
            {"create": "#py-9", "at": "2019-03-01T09:00:00Z", "from": "shop", "members": ["bob"]},
            {"to": "#py-9", "from": "bob", "at": "2019-03-01T09:00:01Z", "key": "m17", "text": "Grüße"},
        ]
        self.assertEqual(self.admin.import_lines(lines), {"stored": 2, "duplicates": 0})
        self.assertEqual(self.admin.import_lines(lines), {"stored": 0, "duplicates": 2})
        self.assertEqual(self.admin.import_lines([]), {"stored": 0, "duplicates": 0})
        with self.assertRaises(NotFound):
            self.admin.import_lines([{**lines[1], "to": "#nowhere", "key": "new"}])
