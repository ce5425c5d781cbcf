//! The filter of words: what it finds, through which doors, and how the list changes while the server runs.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use switchboard::config::{Ask, Config, FilterAction, ModerationConfig, OnFailure};
use switchboard_protocol::reply::{Failure, OkBody};
use switchboard_protocol::{ErrorCode, Hello, PersonName, Role};
use switchboard_store::clock::Clock;
use switchboard_store::grant::Scope;
use tempfile::TempDir;

use crate::bans::wait_for_feature;
use crate::check::assert_check_finds_no_problem_after_a_stop;
use crate::cli::{TOKEN_SECRET, run_command, stdout_and_stderr, switchboard_command};
use crate::hooks::answer_of;
use crate::keys::key_with;
use crate::people::{asks_for, token};
use crate::support::{Application, Person, Server, SharedEngines, eventually};

const LIST: &str = "# rude words\nidiot\nslur*\n*gate\nkill yourself\n🖕\n傻逼\n";

/// A list of words in a file of its own.
struct List {
    _directory: TempDir,
    path: PathBuf,
    action: FilterAction,
}

impl List {
    fn new(text: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("words");
        let list = Self { _directory: directory, path, action: FilterAction::Refuse };
        list.becomes(text);
        list
    }

    fn that_holds(self) -> Self {
        Self { action: FilterAction::Hold, ..self }
    }

    fn becomes(&self, text: &str) {
        std::fs::write(&self.path, text).expect("written");
    }

    fn configure(&self, config: &mut Config) {
        config.moderation = Some(ModerationConfig { words_file: self.path.clone(), action: self.action });
        config.profiles.own = true;
    }

    async fn server(&self) -> Server {
        Server::start_with_auth_and(|config| self.configure(config)).await
    }

    async fn server_on_postgresql(&self) -> Server {
        let shared = SharedEngines::new().await;
        Server::start_with_auth_and(|config| {
            shared.configure(config);
            self.configure(config);
        })
        .await
    }
}

async fn failure(person: &mut Person, command: &str, fields: Value) -> Failure {
    person.tries(command, fields.clone()).await.expect_err(&format!("{command} {fields}"))
}

fn is_filtered(failure: &Failure, field: &str) {
    assert_eq!((failure.code.as_str(), failure.field.as_deref()), ("refused", Some(field)), "{failure:?}");
    assert!(!failure.retryable && failure.message.contains("not allowed"), "{failure:?}");
}

async fn words_are_refused_everywhere(server: &Server) {
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.makes_room("r", &["bob"]).await;
    bob.receives_event().await;
    let message = alice.says("#r", "hello").await;
    bob.receives_message("hello").await;
    for (command, fields, field) in [
        ("send", json!({"to": "#r", "text": "you idiot"}), "text"),
        ("send", json!({"to": "@bob", "text": "you idiot"}), "text"),
        ("edit", json!({"conversation": "#r", "target": message, "text": "you idiot"}), "text"),
        ("react", json!({"conversation": "#r", "target": message, "emoji": "🖕🏽"}), "emoji"),
        ("react", json!({"conversation": "#r", "target": message, "emoji": "idiot"}), "emoji"),
        ("create", json!({"room": "s", "title": "Idiot!"}), "title"),
        ("create", json!({"room": "idiot-talk"}), "room"),
        ("rename", json!({"conversation": "#r", "title": "slurs"}), "title"),
        ("profile", json!({"name": "Kill Yourself"}), "name"),
    ] {
        let failure = failure(&mut alice, command, fields).await;
        is_filtered(&failure, field);
        assert!(!failure.message.contains("idiot") && !failure.message.contains("slur"), "{failure:?}");
    }
    // Nothing was stored by halves, and a refusal holds up nothing.
    assert_eq!(alice.says("#r", "next").await, message + 1);
    bob.receives_message("next").await;
    assert_eq!(alice.conversations().await.len(), 1);
    // A reaction that is removed shows nothing.
    let removed = json!({"conversation": "#r", "target": message, "emoji": "🖕", "on": false});
    assert_eq!(alice.is_refused("react", removed).await, ErrorCode::NotFound);
    alice.does("rename", json!({"conversation": "#r", "title": "Bourgates"})).await;
    alice.does("profile", json!({"name": "Alice"})).await;
    for (what, count) in
        [("message", 2.0), ("edit", 1.0), ("react", 2.0), ("create", 2.0), ("rename", 1.0), ("profile", 1.0)]
    {
        let is = server.metric(&format!(r#"switchboard_filter_refused_total{{what="{what}"}}"#)).await;
        assert!((is - count).abs() < 0.1, "{what}: {is}");
    }
    assert!((server.metric("switchboard_filter_words").await - 6.0).abs() < 0.1);
}

#[tokio::test]
async fn words_are_refused_in_messages_edits_reactions_titles_and_names() {
    let mut server = List::new(LIST).server().await;
    words_are_refused_everywhere(&server).await;
    assert_check_finds_no_problem_after_a_stop(&mut server).await;
}

#[tokio::test]
async fn words_are_refused_in_messages_edits_reactions_titles_and_names_on_postgresql() {
    words_are_refused_everywhere(&List::new(LIST).server_on_postgresql().await).await;
}

async fn disguises_are_found_and_innocent_words_are_not(server: &Server) {
    let mut alice = server.connects("alice").await;
    for text in [
        "IDIOT",
        "ｉｄｉｏｔ",
        "іdіоt",
        "ІDІОТ",
        "id\u{200d}iot",
        "i\u{200b}d\u{2060}iot",
        "id\u{ad}iot",
        "i\u{301}diot",
        "i\u{336}d\u{336}i\u{336}o\u{336}t\u{336}",
        "ïdíöt",
        "𝓲𝓭𝓲𝓸𝓽",
        "ⓘⓓⓘⓞⓣ",
        "🅸🅳🅸🅾🆃",
        "idi0t",
        "1D1OT",
        "lDlOT",
        "idiot's",
        "_idiot_",
        "an.idiot.here",
        "slurring",
        "watergate",
        "kill\n yourself",
        "ok🖕🏿",
        "你傻逼吗",
        "\u{202e}idiot",
    ] {
        is_filtered(&failure(&mut alice, "send", json!({"to": "@bob", "text": text})).await, "text");
    }
    for text in [
        "idiotic",
        "xidiot",
        "a slu r",
        "blur",
        "gates",
        "kill it yourself",
        "傻",
        "👍🏿",
        "Bob's id, iot",
        "101",
    ] {
        alice.says("@bob", text).await;
    }
    // The application's data is its own.
    alice.does("send", json!({"to": "@bob", "data": {"x": "idiot"}})).await;
}

#[tokio::test]
async fn a_word_is_found_in_disguise_and_never_within_another_word() {
    disguises_are_found_and_innocent_words_are_not(&List::new(LIST).server().await).await;
}

#[tokio::test]
async fn a_word_is_found_in_disguise_and_never_within_another_word_on_postgresql() {
    disguises_are_found_and_innocent_words_are_not(&List::new(LIST).server_on_postgresql().await).await;
}

async fn a_new_list_is_used(server: &Server, list: &List) {
    let mut alice = server.connects("alice").await;
    alice.makes_room("r", &["bob"]).await;
    let first = alice.says_with_key("#r", "k1", "a pumpkin").await;

    list.becomes("pumpkin\n");
    eventually("the new list", || async {
        (server.metric("switchboard_filter_words").await < 1.5).then_some(())
    })
    .await;
    is_filtered(&failure(&mut alice, "send", json!({"to": "#r", "text": "pumpkin"})).await, "text");
    alice.says("#r", "an idiot is no longer on the list").await;
    // What was stored is answered again, and what may not be written anyway is refused for that.
    let again = alice.says_with_key("#r", "k1", "a pumpkin").await;
    assert_eq!((again.seq, again.duplicate), (first.seq, true));
    alice.does("role", json!({"conversation": "#r", "user": "bob", "role": Role::Reader})).await;
    let mut bob = server.connects("bob").await;
    for (person, to, code) in [(&mut bob, "#r", "forbidden"), (&mut alice, "#none", "not_found")] {
        let failure = failure(person, "send", json!({"to": to, "text": "a pumpkin"})).await;
        assert_eq!(failure.code.as_str(), code);
    }

    // A list that cannot be used changes nothing.
    list.becomes("turnip\nb*d\n");
    eventually("the failure", || async {
        (server.metric("switchboard_filter_load_failures_total").await > 0.5).then_some(())
    })
    .await;
    is_filtered(&failure(&mut alice, "send", json!({"to": "#r", "text": "pumpkin"})).await, "text");
    alice.says("#r", "turnip").await;
}

#[tokio::test]
async fn a_list_that_changes_is_used_and_what_was_stored_is_answered_again() {
    let list = List::new(LIST);
    a_new_list_is_used(&list.server().await, &list).await;
}

#[tokio::test]
async fn a_list_that_changes_is_used_and_what_was_stored_is_answered_again_on_postgresql() {
    let list = List::new(LIST);
    a_new_list_is_used(&list.server_on_postgresql().await, &list).await;
}

#[tokio::test]
async fn keys_are_filtered_unless_they_are_unasked_and_imports_never_are() {
    let server = List::new(LIST).server().await;
    let scopes = [Scope::Act, Scope::People, Scope::Admin];
    let asked = key_with(&server, "asked", |key| key.with_scopes(scopes));
    let unasked = key_with(&server, "unasked", |mut key| {
        key.unasked = true;
        key.with_scopes(scopes)
    });
    let send = json!({"as": "shop", "to": "@bob", "text": "an idiot"});
    let many = json!({"as": "shop", "users": ["ann", "bob"], "key": "k", "text": "an idiot"});
    let profiles = json!({"profiles": [{"user": "ann", "name": "Ann"}, {"user": "bob", "name": "Idiot"}]});
    let problem = server.posts_as(&asked, "send", send.clone()).await.problem();
    assert_eq!((&problem["code"], &problem["field"]), (&json!("refused"), &json!("text")), "{problem}");
    let sent = server.posts_as(&asked, "send_many", many.clone()).await.ok();
    assert_eq!(sent["results"][1]["error"]["code"], "refused", "{sent}");
    let problem = server.posts_as(&asked, "profiles", profiles.clone()).await.problem();
    assert_eq!((&problem["code"], &problem["field"]), (&json!("refused"), &json!("profiles[1].name")));
    server.posts_as(&unasked, "send", send).await.ok();
    let sent = server.posts_as(&unasked, "send_many", many).await.ok();
    assert_eq!(sent["results"][1].get("error"), None, "{sent}");
    server.posts_as(&unasked, "profiles", profiles).await.ok();

    let line =
        json!({"to": "@bob", "from": "ann", "at": "2019-01-01T00:00:00Z", "key": "m1", "text": "an idiot"});
    let request = server.asks("POST", "/v1/import").header("content-type", "application/x-ndjson");
    let imported = server.request(request.bearer_auth(&asked).body(line.to_string())).await.ok();
    assert_eq!(imported["stored"], 1, "{imported}");
}

#[tokio::test]
async fn the_application_is_not_asked_about_what_the_filter_refuses() {
    let list = List::new(LIST);
    let mut application = Application::start().await;
    let hook = application.hook(&[(Ask::Message, OnFailure::Refuse)]);
    let server = Server::start_with_auth_and(|config| {
        list.configure(config);
        config.hooks = Some(hook);
    })
    .await;
    let mut alice = server.connects("alice").await;
    let good = alice.submits("send", json!({"to": "@bob", "text": "one"})).await;
    let bad = alice.submits("send", json!({"to": "@bob", "text": "an idiot"})).await;
    let question = application.is_asked().await;
    assert_eq!(question.data()["message"]["text"], "one");
    question.accepts();
    for id in [good, bad] {
        let reply = answer_of(&mut alice, id).await;
        assert_eq!(reply.get("code"), (id == bad).then_some(&json!("refused")), "{reply}");
    }
    application.is_not_asked();
}

/// Under `hold`, a message waits and everything else is refused.
async fn messages_are_held(server: &Server) {
    wait_for_feature(server, "hold").await;
    let moderator = key_with(server, "moderator", |key| key.with_scopes([Scope::Moderate]));
    let shop = key_with(server, "shop", |key| key);
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let message = alice.says("@bob", "hello").await;
    bob.receives_message("hello").await;
    for (command, fields, field) in [
        ("edit", json!({"conversation": "@bob", "target": message, "text": "an idiot"}), "text"),
        ("react", json!({"conversation": "@bob", "target": message, "emoji": "🖕"}), "emoji"),
        ("create", json!({"room": "s", "title": "Idiot!"}), "title"),
    ] {
        is_filtered(&failure(&mut alice, command, fields).await, field);
    }
    let held = json!({"to": "@bob", "key": "k", "text": "an idiot"});
    for duplicate in [false, true] {
        match alice.does("send", held.clone()).await {
            OkBody::Held { duplicate: is, .. } => assert_eq!(is, duplicate),
            other => panic!("{other:?}"),
        }
    }
    let sent = json!({"as": "shop", "to": "@bob", "key": "k", "text": "an idiot"});
    assert_eq!(server.posts_as(&shop, "send", sent).await.ok()["held"], true);
    let many = json!({"as": "shop", "users": ["ann", "bob"], "key": "many", "text": "an idiot"});
    let sent = server.posts_as(&shop, "send_many", many).await.ok();
    assert_eq!((&sent["results"][0]["held"], &sent["results"][1]["held"]), (&json!(true), &json!(true)));
    // What may not be sent anyway is refused for that.
    let failed = failure(&mut alice, "send", json!({"to": "#none", "text": "an idiot"})).await;
    assert_eq!(failed.code.as_str(), "not_found");
    bob.receives_nothing().await;
    assert!((server.metric("switchboard_filter_held_total").await - 6.0).abs() < 0.1);

    let open = server.posts_as(&moderator, "reports", json!({"state": "open"})).await.ok();
    let reports = open["reports"].as_array().expect("reports");
    assert_eq!(reports.len(), 4, "{open}");
    let first = reports.iter().find(|report| report["user"] == "alice").expect("alice's message");
    let release = json!({"report": first["report"], "action": "release"});
    server.posts_as(&moderator, "resolve", release).await.ok();
    bob.receives_message("an idiot").await;
}

#[tokio::test]
async fn messages_with_such_words_are_held_and_the_rest_is_refused() {
    let mut server = List::new(LIST).that_holds().server().await;
    messages_are_held(&server).await;
    assert_check_finds_no_problem_after_a_stop(&mut server).await;
}

#[tokio::test]
async fn messages_with_such_words_are_held_and_the_rest_is_refused_on_postgresql() {
    messages_are_held(&List::new(LIST).that_holds().server_on_postgresql().await).await;
}

#[tokio::test]
async fn a_list_with_a_bad_line_is_named_by_config_check_and_stops_the_start() {
    let list = List::new("good\n\nb*d\n");
    let run = async |words: &[&str], path: &Path, action: &str| {
        let mut command = switchboard_command(words);
        command.env("SWITCHBOARD_AUTH_SECRET", TOKEN_SECRET).env("SWITCHBOARD_LISTEN", "127.0.0.1:0");
        command.env("SWITCHBOARD_MODERATION_WORDS_FILE", path).env("SWITCHBOARD_MODERATION_ACTION", action);
        let output = run_command(&mut command).await;
        let (stdout, stderr) = stdout_and_stderr(&output);
        (output.status.success(), stdout + &stderr)
    };
    for words in [&["config", "check", "--offline"][..], &["config", "check"], &["serve"]] {
        let (good, printed) = run(words, &list.path, "refuse").await;
        assert!(!good && printed.contains("line 3: ") && !printed.contains("b*d"), "{printed}");
        let (good, printed) = run(words, Path::new("/nowhere/words"), "refuse").await;
        assert!(!good && printed.contains("cannot read /nowhere/words"), "{printed}");
        let (good, printed) = run(words, &list.path, "delete").await;
        assert!(!good && printed.contains("expected `refuse` or `hold`"), "{printed}");
    }
    list.becomes("good\n");
    for action in ["refuse", "hold"] {
        let (good, printed) = run(&["config", "check", "--offline"], &list.path, action).await;
        assert!(good, "{printed}");
    }
}

#[tokio::test]
async fn a_name_with_such_a_word_in_a_token_is_left_out() {
    let server = List::new(LIST).server().await;
    let seconds = Clock::system().now().as_millis() / 1_000;
    for (name, issued, shown) in
        [("Eve", seconds - 2, Some("Eve")), ("Eve the idiot", seconds - 1, Some("Eve"))]
    {
        let token = token(&json!({"sub": "eve", "iat": issued, "exp": seconds + 600, "name": name}));
        let hello = Hello { token: Some(token), user: None, device: None, cursors: Default::default() };
        let mut eve = server.tries_to_connect(hello).await.expect("welcome");
        assert_eq!(asks_for(&mut eve, &["eve"]).await.remove(0).name.as_ref().map(PersonName::as_str), shown);
    }
}
