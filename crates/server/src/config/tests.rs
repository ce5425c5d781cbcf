use std::path::Path;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef-not-a-real-one";

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Writes a configuration file. The file exists until the returned directory is dropped.
fn write_config_file(text: &str) -> (tempfile::TempDir, Flags) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("switchboard.toml");
    std::fs::write(&path, text).expect("written");
    (dir, Flags { config: Some(path), ..Flags::default() })
}

fn read_config(text: &str, vars: &[(&str, &str)]) -> Result<Config, String> {
    let (_dir, flags) = write_config_file(text);
    Config::read(Mode::Serve, &flags, &env(vars)).map_err(|e| e.to_string())
}

#[track_caller]
fn assert_refused(text: &str, vars: &[(&str, &str)], words: &str) {
    let message = read_config(text, vars).expect_err("refused");
    assert!(message.contains(words), "{message:?} lacks {words:?}");
}

#[test]
fn without_sources_the_configuration_is_the_defaults() {
    let config = Config::read(Mode::Serve, &Flags::default(), &[]).expect("defaults");
    assert_eq!(config.listen.to_string(), "127.0.0.1:9501");
    assert_eq!(config.data, Path::new("./data"));
    assert_eq!(config.unknown_users, UnknownUsers::Allow);
    assert_eq!(config.presence_grace, Duration::from_secs(5));
    assert_eq!(config.shutdown_deadline, Duration::from_secs(10));
    assert_eq!(config.reconnect_spread, Duration::from_secs(5));
    assert_eq!((config.log.level.as_str(), config.log.format), ("info", LogFormat::Text));
    assert_eq!(config.limits, Limits::default());
    assert!(config.allowed_origins.is_empty() && config.auth == AuthConfig::default());
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let text =
        "listen = '127.0.0.1:1'\ndata = '/file'\nunknown_users = 'refuse'\n[limits]\nreplay = 7\ntext = 9";
    let (_dir, mut flags) = write_config_file(text);
    let vars = env(&[
        ("SWITCHBOARD_LISTEN", "127.0.0.1:2"),
        ("SWITCHBOARD_DATA", "/env"),
        ("SWITCHBOARD_LIMITS_REPLAY", "8"),
        ("SWITCHBOARD_ALLOWED_ORIGINS", "https://a.example, http://localhost:5173"),
        ("SWITCHBOARD_LOG_FORMAT", "json"),
        ("SWITCHBOARD_PRESENCE_GRACE", "10"),
    ]);
    flags.listen = Some("127.0.0.1:3".to_owned());
    let config = Config::read(Mode::Serve, &flags, &vars).expect("good");
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.data, Path::new("/env"));
    assert_eq!(config.unknown_users, UnknownUsers::Refuse);
    assert_eq!((config.limits.replay, config.limits.text), (8, 9));
    assert_eq!(config.limits.page, Limits::default().page, "the rest of a section keeps its defaults");
    assert_eq!(config.allowed_origins, ["https://a.example", "http://localhost:5173"]);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.presence_grace, Duration::from_millis(10));
}

#[test]
fn an_unknown_setting_is_refused_with_the_most_similar_one() {
    assert_refused("lsten = '127.0.0.1:1'", &[], "did you mean `listen`?");
    assert_refused("[limits]\nreplays = 1", &[], "did you mean `limits.replay`?");
    assert_refused("secret = 'x'", &[], "did you mean `auth.secret`?");
    assert_refused("log_level = 'x'", &[], "did you mean `log.level`?");
    assert_refused("[limit]\nframe = 1", &[], "did you mean `[limits]`?");
    assert_refused(
        "[server]\nframe = 1",
        &[],
        "the sections are [auth], [log], [operator], [tls], [acme], [cluster], [feed], [hooks], [moderation], [webhooks], [profiles], [permissions], [limits]",
    );
    assert_refused("zzzzzzzz = 1", &[], "`switchboard config default`");
    assert_refused("limits = 3", &[], "is a section, `[limits]`");
    assert_refused("", &[("SWITCHBOARD_LITSEN", "x")], "did you mean SWITCHBOARD_LISTEN?");
    assert_refused("", &[("SWITCHBOARD_SECRET_FILE", "x")], "did you mean SWITCHBOARD_AUTH_SECRET_FILE?");
    assert_refused(
        "",
        &[("SWITCHBOARD_PORT", "9501")],
        "SWITCHBOARD_PORT in the environment is not a setting",
    );
}

#[test]
fn variables_of_other_programs_are_ignored() {
    let vars = [
        ("PATH", "/bin"),
        ("SWITCHBOARD_CONFIG", "/x"),
        ("SWITCHBOARD_TOKEN", "x"),
        ("SWITCHBOARD_LISTEN", ""),
        ("SWITCHBOARD_SERVICE_HOST", "10.0.0.1"),
        ("SWITCHBOARD_SERVICE_PORT_HTTP", "9501"),
        ("SWITCHBOARD_PORT", "tcp://10.0.0.1:9501"),
        ("SWITCHBOARD_PORT_9501_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(read_config("", &vars).expect("good").listen, DEFAULT_LISTEN);
}

#[test]
fn an_invalid_value_is_refused_with_its_source() {
    assert_refused("listen = 'localhost:1'", &[], "`listen` in ");
    assert_refused("listen = 'localhost:1'", &[], "an IP address with a port");
    assert_refused("data = ''", &[], "`data` is empty");
    assert_refused("presence_grace = -1", &[], "`presence_grace` in ");
    assert_refused("unknown_users = 'perhaps'", &[], "expected `allow` or `refuse`");
    assert_refused("a = 1\nb = = 2", &[], "switchboard.toml, line 2: ");
    assert_refused(
        "",
        &[("SWITCHBOARD_LIMITS_FRAME", "64K")],
        "SWITCHBOARD_LIMITS_FRAME in the environment: ",
    );
    assert_refused("", &[("SWITCHBOARD_LIMITS_FRAME", "64K")], "expected a whole number, not a string");
    assert_refused("allowed_origins = 'https://a.example'", &[], "expected a list");
    assert_refused("", &[("SWITCHBOARD_LOG_LEVEL", "inof")], "\"inof\" is not one of off, error");
    assert_refused("[limits]\nframe = 0", &[], "`limits.frame` is 0");
    assert_refused("[limits]\ntext = 100_000", &[], "`limits.text` is 100000");
    assert_refused("[limits]\nqueue = 1", &[], "`limits.queue` is 1, too small for one event");
    read_config(&format!("[limits]\nqueue = {}", Limits::MIN_QUEUE_BYTES), &[]).expect("the smallest");
    for origin in [
        "*",
        "https://*.example",
        "Null",
        "chat.example",
        "https://a.example/",
        "https://A.example",
        "https://a.example:443",
    ] {
        assert_refused("", &[("SWITCHBOARD_ALLOWED_ORIGINS", origin)], "is not an origin");
    }
    let opaque = read_config("", &[("SWITCHBOARD_ALLOWED_ORIGINS", "null,https://a.example")]).expect("good");
    assert_eq!(opaque.allowed_origins, ["null", "https://a.example"]);
    for good in ["warn", "info,switchboard=debug", "off"] {
        assert_eq!(read_config("", &[("SWITCHBOARD_LOG_LEVEL", good)]).expect("good").log.level, good);
    }
    let flags = Flags { config: Some("/nowhere/x.toml".into()), ..Flags::default() };
    let error = Config::read(Mode::Serve, &flags, &[]).expect_err("no file").to_string();
    assert!(error.contains("cannot read /nowhere/x.toml"), "{error}");
}

#[test]
fn a_secret_is_long_enough_and_never_shown() {
    assert_refused("[auth]\nsecret = 'short-and-private'", &[], "openssl rand -base64 32");
    for text in [
        "[auth]\nsecret = 'short-and-private'",
        "[auth]\nsecret = 'short-and-private",
        "[auth]\nsecret = ['short-and-private']",
    ] {
        let message = read_config(text, &[]).expect_err("refused");
        assert!(!message.contains("private"), "{message}");
    }
    let config = read_config("", &[("SWITCHBOARD_AUTH_SECRET", SECRET)]).expect("good");
    assert_eq!(config.auth.keys, [AuthKey::Secret(Secret::new(SECRET).expect("long enough"))]);
    let shown =
        [format!("{config:?}"), config.to_toml().expect("toml"), config.to_json().expect("json").to_string()];
    for text in shown {
        assert!(!text.contains(SECRET) && text.contains(Secret::MASK), "{text}");
    }
}

#[test]
fn a_secret_is_read_from_a_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).expect("written");
    let path = path.to_str().expect("a path");
    let config = read_config("", &[("SWITCHBOARD_AUTH_SECRET_FILE", path)]).expect("good");
    assert_eq!(config.auth.keys, [AuthKey::Secret(Secret::new(SECRET).expect("long enough"))]);
    assert_refused(
        "",
        &[("SWITCHBOARD_AUTH_SECRET_FILE", "/nowhere")],
        "SWITCHBOARD_AUTH_SECRET_FILE in the environment: cannot read /nowhere",
    );
    std::fs::write(path, "short\n").expect("written");
    assert_refused("", &[("SWITCHBOARD_AUTH_SECRET_FILE", path)], "at least 32 bytes, this one has 5");
}

#[test]
fn trailing_line_breaks_of_a_secret_are_dropped_and_other_invisible_characters_refused() {
    let good = [AuthKey::Secret(Secret::new(SECRET).expect("long enough"))];
    for text in [format!("{SECRET}\n"), format!("{SECRET}\r\n"), format!("{SECRET}\n\n")] {
        let config =
            read_config("", &[("SWITCHBOARD_AUTH_SECRET", text.as_str())]).expect("a line break at the end");
        assert_eq!(config.auth.keys, good);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("secret");
    let utf16 =
        |bom: &[u8]| bom.iter().copied().chain(SECRET.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    let cases: [(Vec<u8>, &str); 9] = [
        (format!("\u{feff}{SECRET}").into(), "byte order mark"),
        (format!("{SECRET} ").into(), "begins or ends with white space"),
        (format!("{SECRET} \n").into(), "begins or ends with white space"),
        (format!("\t{SECRET}").into(), "begins or ends with white space"),
        (format!("{SECRET}\u{200b}").into(), "invisible"),
        (format!("{SECRET}\n{SECRET}").into(), "several lines"),
        (utf16(&[0xff, 0xfe]), "UTF-16"),
        (utf16(&[]), "UTF-16"),
        (vec![0x80; 40], "UTF-8"),
    ];
    for (bytes, words) in cases {
        std::fs::write(&path, &bytes).expect("written");
        assert_refused("", &[("SWITCHBOARD_AUTH_SECRET_FILE", path.to_str().expect("a path"))], words);
        if let Ok(text) = std::str::from_utf8(&bytes)
            && !text.contains('\0')
        {
            assert_refused("", &[("SWITCHBOARD_AUTH_SECRET", text)], words);
        }
    }
}

#[test]
fn a_key_in_a_higher_layer_replaces_all_keys_of_lower_layers() {
    let both = format!("[auth]\nsecret = '{SECRET}'\npublic_key = 'x'");
    assert_refused(&both, &[], "so give one of them");
    let config =
        read_config(&format!("[auth]\nsecret = '{SECRET}'"), &[("SWITCHBOARD_AUTH_PUBLIC_KEY", "pem")]);
    assert_eq!(config.expect("good").auth.keys, [AuthKey::PublicKey("pem".to_owned())]);
    let one_line = [("SWITCHBOARD_AUTH_PUBLIC_KEY", "-----BEGIN-----\\nAAAA\\n-----END-----")];
    let pem = "-----BEGIN-----\nAAAA\n-----END-----".to_owned();
    assert_eq!(read_config("", &one_line).expect("good").auth.keys, [AuthKey::PublicKey(pem)]);
}

#[test]
fn a_production_server_without_a_key_refuses_to_start() {
    let error = Config::load(Mode::Serve, &Flags::default(), &[]).expect_err("no key").to_string();
    assert!(error.contains("SWITCHBOARD_AUTH_SECRET_FILE") && error.contains("switchboard dev"), "{error}");
    let vars = env(&[("SWITCHBOARD_AUTH_SECRET", SECRET), ("SWITCHBOARD_LISTEN", "0.0.0.0:80")]);
    Config::load(Mode::Serve, &Flags::default(), &vars).expect("valid with a key, at any address");
}

#[test]
fn a_dev_server_listens_on_loopback_only() {
    for address in ["0.0.0.0:9501", "[::]:9501", "192.168.0.1:9501"] {
        let flags = Flags { listen: Some(address.to_owned()), ..Flags::default() };
        let error = Config::load(Mode::Dev, &flags, &[]).expect_err(address).to_string();
        assert!(error.contains("loopback"), "{error}");
    }
    for address in ["127.0.0.1:0", "127.9.9.9:1", "[::1]:9501"] {
        let flags = Flags { listen: Some(address.to_owned()), ..Flags::default() };
        let config = Config::load(Mode::Dev, &flags, &[]).expect(address);
        assert_eq!(config.limits, Limits::default().without_rates());
    }
    let config = Config::for_dev(PathBuf::from("x"));
    assert_eq!((config.mode, config.listen.port(), config.limits.sends_per_user), (Mode::Dev, 0, 0));
}

#[test]
fn the_default_file_lists_every_setting_with_its_default() {
    let text = default_toml().expect("text");
    for setting in file::all_settings() {
        assert!(text.contains(&format!("\n#{} = ", setting.name)), "{} in\n{text}", setting.path());
    }
    assert!(text.contains("# Longest frame from a client."), "{text}");
    assert_eq!(
        read_config(&text, &[]).expect("as it is").to_toml(),
        read_config("", &[]).expect("empty").to_toml()
    );
    // With all settings uncommented, except those that exclude each other or need a file that is read, the file is still valid.
    let open: String = text
        .lines()
        .filter_map(|line| line.strip_prefix('#').or(Some(line)))
        .filter(|line| {
            let others = [
                " ",
                "secret",
                "public_key",
                "store_file",
                "bus_file",
                "words_file",
                "token",
                "url",
                "ask",
                "on_failure",
            ];
            !others.iter().any(|way| line.starts_with(way))
        })
        .fold(String::new(), |all, line| all + line + "\n");
    let config = read_config(&open, &[]).expect(&open);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.auth.audience.as_deref(), Some("switchboard"));
}

#[test]
fn a_shown_configuration_can_be_read_again() {
    let config =
        read_config("", &[("SWITCHBOARD_LIMITS_PAGE", "50"), ("SWITCHBOARD_DATA", "/d")]).expect("good");
    let again = read_config(&config.to_toml().expect("toml"), &[]).expect("good");
    assert_eq!(format!("{config:?}"), format!("{again:?}"));
}

#[test]
fn a_cluster_needs_a_store_and_may_have_a_bus() {
    assert_eq!(read_config("", &[]).expect("good").cluster, None);
    let store = ("SWITCHBOARD_STORE", "postgres://chat:geheim@db/chat");
    let alone = read_config("[cluster]\nsweep = 1000", &[store]).expect("good").cluster.expect("a store");
    assert_eq!((alone.store.expose(), alone.bus), ("postgres://chat:geheim@db/chat", None));
    assert_eq!(
        (alone.settings.sweep, alone.settings.lease),
        (Duration::from_secs(1), Duration::from_secs(10))
    );
    let file = "store = 'postgresql://a/b'\nbus = 'nats://a?tls=off'";
    let both = read_config(file, &[store, ("SWITCHBOARD_BUS", "tls://b,tls://c")]).expect("good");
    let shown = both.to_toml().expect("toml");
    assert!(shown.contains("chat:(hidden)@db/chat") && !shown.contains("geheim"), "{shown}");
    let cluster = both.cluster.expect("a store");
    assert_eq!(cluster.bus.expect("a bus").expose(), "tls://b,tls://c");

    assert_refused("bus = 'nats://a?tls=off'", &[], "a bus connects nodes that share a `store`");
    assert_refused("store = 'mysql://a/b'", &[], "is not the address of a PostgreSQL database");
    assert_refused("store = 'postgres://a/b'\nbus = 'redis://a'", &[], "is not the address of a NATS server");
    assert_refused(
        "store = 'postgres://a/b'\nstore_file = '/x'",
        &[],
        "there is one store, so give one of them",
    );
    assert_refused("store_file = '/nowhere/store'", &[], "cannot read /nowhere/store");
    assert_refused("[cluster]\nlease = 10", &[], "`cluster.lease` is 10; the minimum is 1000");
    assert_refused("[cluster]\nbus_prefix = 'a.b'", &[], "must consist of letters");
}

#[test]
fn a_misspelt_log_module_is_refused() {
    for (level, words) in [
        ("info,swichboard=debug", "did you mean switchboard?"),
        ("switchbord::router=debug", "did you mean switchboard?"),
        ("info,switchboard::ruoter=debug", "there is no module switchboard::ruoter"),
        ("info,switchboard::sesion::live=trace", "one of switchboard::{"),
    ] {
        assert_refused("", &[("SWITCHBOARD_LOG_LEVEL", level)], words);
    }
    for good in [
        "info,switchboard::router=debug",
        "warn,tokio_postgres=info,hyper=off",
        "switchboard::store::sqlite=trace",
        "switchboard_store::sqlite=trace",
    ] {
        read_config("", &[("SWITCHBOARD_LOG_LEVEL", good)]).expect(good);
    }
}

#[test]
fn trusted_proxies_must_be_networks_and_are_none_by_default() {
    let config = read_config("", &[]).expect("good");
    assert_eq!(config.proxies, ProxyConfig::default(), "no proxy is trusted by default");
    let vars = [
        ("SWITCHBOARD_TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
        ("SWITCHBOARD_FORWARDED_HEADER", "forwarded"),
        ("SWITCHBOARD_PROXY_PROTOCOL", "true"),
    ];
    let by_variables = read_config("", &vars).expect("good").proxies;
    let text =
        "trusted_proxies = ['10.0.0.0/8', '::1']\nforwarded_header = 'forwarded'\nproxy_protocol = true";
    assert_eq!(read_config(text, &[]).expect("good").proxies, by_variables);
    assert_eq!((by_variables.protocol, by_variables.header), (true, ForwardedHeader::Forwarded));
    assert!(by_variables.trusted[0].contains([10, 1, 2, 3].into()));

    assert_refused("trusted_proxies = ['proxy.example']", &[], "is not a network");
    assert_refused("", &[("SWITCHBOARD_TRUSTED_PROXIES", "10.0.0.1/8")], "did you mean 10.0.0.0/8");
    assert_refused("trusted_proxies = ['::/0']", &[], "is every address");
    assert_refused("proxy_protocol = true", &[], "only proxies in `trusted_proxies`");
    assert_refused(
        "",
        &[("SWITCHBOARD_PROXY_PROTOCOL", "yes")],
        "SWITCHBOARD_PROXY_PROTOCOL in the environment: ",
    );
    assert_refused("forwarded_header = 'x'", &[], "expected `x_forwarded_for` or `forwarded`");
}

#[test]
fn the_operators_listener_has_its_own_setting_variable_and_flag() {
    assert_eq!(read_config("", &[]).expect("good").operator_listen, None);
    let text = "[operator]\nlisten = '127.0.0.1:1'";
    let vars = [("SWITCHBOARD_OPERATOR_LISTEN", "127.0.0.1:2")];
    let port = |config: Config| config.operator_listen.expect("an address").port();
    assert_eq!(port(read_config(text, &[]).expect("good")), 1);
    assert_eq!(port(read_config(text, &vars).expect("good")), 2);
    let flags = Flags { operator_listen: Some("127.0.0.1:3".to_owned()), ..Flags::default() };
    assert_eq!(port(Config::read(Mode::Serve, &flags, &env(&vars)).expect("good")), 3);
    assert_refused("[operator]\nlisten = 'localhost'", &[], "`operator.listen` in ");
    let flags = Flags { operator_listen: Some("127.0.0.1:9501".to_owned()), ..Flags::default() };
    let error = Config::load(Mode::Dev, &flags, &[]).expect_err("the same").to_string();
    assert!(error.contains("a port of their own"), "{error}");
}

#[test]
fn a_node_has_the_configured_name_or_that_of_its_host() {
    assert_eq!(read_config("", &[]).expect("good").name(), NodeName::of_host());
    let config = read_config("name = 'chat-1'", &[]).expect("good");
    assert_eq!(config.name().as_str(), "chat-1");
    assert!(config.changed_settings().expect("settings").contains("name=chat-1"));
    assert_eq!(read_config("name = 'a'", &[("SWITCHBOARD_NAME", "b")]).expect("good").name().as_str(), "b");
    assert_refused("name = 'two words'", &[], "`name` in");
    assert_refused("name = ''", &[], "1 to 63 ASCII letters");
}

#[test]
fn the_token_of_operators_comes_from_a_setting_or_a_file_and_is_never_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("token");
    std::fs::write(&path, format!("{SECRET}\n")).expect("written");
    let path = path.to_str().expect("UTF-8");
    let token_file = ("SWITCHBOARD_OPERATOR_TOKEN_FILE", path);
    for (text, vars) in [("", token_file), ("", ("SWITCHBOARD_OPERATOR_TOKEN", SECRET))] {
        let config = read_config(text, &[vars]).expect("good");
        let token = config.operator_token.clone().expect("a token");
        assert!(token.matches(SECRET) && !token.matches(&SECRET[1..]) && !token.matches(""));
        assert!(!config.to_toml().expect("toml").contains(SECRET));
    }
    assert_refused("", &[token_file, ("SWITCHBOARD_OPERATOR_TOKEN", SECRET)], "operators have one token");
    assert_refused("[operator]\ntoken = 'short'", &[], "at least 32 bytes");
    assert_refused("[operator]\ntoken_file = '/nowhere'", &[], "cannot read /nowhere");
    assert_eq!(read_config("", &[]).expect("good").operator_token, None);
}

/// A file with a hook's secret, and the section up to what a test adds.
fn hook_section(directory: &Path) -> String {
    let secret = directory.join("hook");
    std::fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").expect("written");
    format!("[hooks]\nurl = 'https://shop.example/hook'\nsecret_file = '{}'\n", secret.display())
}

#[test]
fn a_hook_needs_a_decision_for_each_question_without_an_answer() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let section = hook_section(directory.path());
    let both = "ask = ['open', 'message']\non_failure = { open = 'accept', message = 'refuse' }";
    let hooks = read_config(&format!("{section}{both}"), &[]).expect("good").hooks.expect("a hook");
    let decisions = [(Ask::Open, OnFailure::Accept), (Ask::Message, OnFailure::Refuse)];
    assert_eq!(hooks.on_failure, decisions.into());
    assert_eq!(
        (hooks.timeout, hooks.only, hooks.context),
        (Duration::from_millis(1_500), vec!["*".to_owned()], 0)
    );
    for (wrong, why) in [
        (
            "ask = ['open', 'message']\non_failure = { open = 'accept' }",
            "does not say what happens to `message`",
        ),
        ("ask = ['open']\non_failure = { open = 'accept', message = 'refuse' }", "names `message`"),
        ("ask = ['open']\non_failure = { open = 'ignore' }", "neither"),
        ("ask = ['open']\non_failure = { opne = 'accept' }", "nothing that is asked about"),
        ("on_failure = { open = 'accept' }", "`hooks.ask` is empty"),
        ("ask = ['settings']\non_failure = {}", "settings"),
        ("ask = ['file']\non_failure = {}", "file"),
        (&format!("{both}\ntimeout = 0"), "`hooks.timeout`"),
        (&format!("{both}\ntimeout = 10001"), "`hooks.timeout`"),
        (&format!("{both}\ncontext = 11"), "`hooks.context`"),
        (&format!("{both}\nonly = []"), "`hooks.only`"),
    ] {
        assert_refused(&format!("{section}{wrong}"), &[], why);
    }
    assert_refused("[hooks]\nask = ['open']", &[], "`hooks.url` is missing");
    assert_refused("[hooks]\nurl = 'shop'", &[], "not an address");
    let without_secret = format!("[hooks]\nurl = 'http://127.0.0.1:1/'\n{both}");
    assert_refused(&without_secret, &[], "`hooks.secret_file` is missing");
}

#[test]
fn a_hook_can_be_set_in_the_environment() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let section = hook_section(directory.path());
    let vars = [
        ("SWITCHBOARD_HOOKS_ASK", "message,edit"),
        ("SWITCHBOARD_HOOKS_ON_FAILURE", "message=refuse, edit=accept"),
        ("SWITCHBOARD_HOOKS_ONLY", "#*"),
    ];
    let hooks = read_config(&section, &vars).expect("good").hooks.expect("a hook");
    let decisions = [(Ask::Message, OnFailure::Refuse), (Ask::Edit, OnFailure::Accept)];
    assert_eq!((hooks.on_failure, hooks.only), (decisions.into(), vec!["#*".to_owned()]));
}

#[test]
fn the_secret_of_a_hook_is_base64_and_long_enough() {
    for (text, why) in
        [("hello, world!", "not base64"), ("c2hvcnQ=", "needs at least 24"), ("", "needs at least 24")]
    {
        let refused = SigningKey::parse(text).expect_err(text).to_string();
        assert!(refused.contains(why), "{refused}");
    }
    let with = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").expect("a key");
    assert_eq!(with, SigningKey::parse("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("the same key"));
    assert!(!format!("{with:?}").contains("MfKQ"));
}
