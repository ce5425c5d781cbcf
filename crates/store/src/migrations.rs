//! Migration files never change once they are on the main branch: databases exist that were made by them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// The SHA-256 of each migration file. A new file gets a new line; no line ever changes.
const MIGRATION_CHECKSUMS: [(&str, &str); 32] = [
    ("postgres/V1__log.sql", "e47178996d04b7d1f1fbc70eb5aebb05be372ea8a53503d75573641fc148436c"),
    ("postgres/V2__notice_key.sql", "eff430beb1437bdd218f20300bf19ea676a3d1b88eae4ac7e11601a8358d886d"),
    ("postgres/V3__probe.sql", "f9e9ecc2bdba8bd554005735eb53e4f165b825c0af748368d65e2bb186e8a180"),
    ("postgres/V4__user_numbers.sql", "407846d503105ba3b8d46d055bf17db17daea79b80786f64d5ed66781b9b268f"),
    ("postgres/V5__keys_and_feed.sql", "cb19b57cd909ce5e6571a97dc16dcdb4bf167b57dedcd27c11f6718991bed14f"),
    ("postgres/V6__profiles.sql", "ed4bc337b1683c6ea83f26998b42e345220a706d7d2d852f1dff2263ab383a23"),
    (
        "postgres/V7__replaced_requests.sql",
        "b59ec07672142d60529a9bfd6249824d6b8576dad0fd5cd57d0685d626acd2f1",
    ),
    ("postgres/V8__retired_ids.sql", "ba01b6eefa153b6a68b268b4f14f145fa94f81d13251348e61e841448177230a"),
    ("postgres/V9__import.sql", "2301f9abbfb57f16fe8216f349fb33f82bb8518d2ed08d0ecbd2eabd0d4bb1cb"),
    ("postgres/V10__absences.sql", "53519c4111087feb6d9a8e47ee9f66219fb4ae70e6478e0920f0bd618a51a124"),
    ("postgres/V11__ended_rooms.sql", "4baafb5f98b86ddb32c78b2f5474fde6535c7aa60743f2b8164effbe19fab305"),
    ("postgres/V12__bans.sql", "6747bf799aa604b7198168468718b30d7fd905acb0ab1448745e76e3f3a34f6e"),
    ("postgres/V13__blocks.sql", "a390e5f884d33a58c7287486e595135a7edf09c0cf43801bfa87e205327d8760"),
    ("postgres/V14__reports.sql", "9cd61f5316be41f06ac162d8a1c66b54f2b36276b32345f344738dd30507367b"),
    ("postgres/V15__held.sql", "89e5acf9c50555fca64a62be600f14f98f18f79c894614b697ff8be349c92a11"),
    ("sqlite/0001_log.sql", "2303da03e3dec4c738073af6d9261fab33620cd845a9865e8faefd60cdf1113e"),
    ("sqlite/0002_bounded_reads.sql", "4ebcd320e1364fba448a712e4d6b3ddaa5667fbefdd31286dd4ec71cf684a917"),
    ("sqlite/0003_revocations.sql", "f68572beba82ac8fde054a4eff7d4e878628bb5583a8f14cb75cd6e69b95bd61"),
    ("sqlite/0004_probe.sql", "4b6e6a1cb89c61fcf17a9c289b9dad0b03d234855a1abec10b5ac446601be922"),
    ("sqlite/0005_checksums.sql", "7f0b38e385d567dfd37a7c92057f83d3d61a9186d303f207f6fc21f122be6f86"),
    ("sqlite/0006_user_numbers.sql", "b6632049164834eb4ea8596fa19ce904b39d447872f14bf52843466a020695d6"),
    ("sqlite/0007_keys_and_feed.sql", "fdaa78037ac852a931a997eb9104201e607d40eacfbe1b96a8db5044a6eeeb52"),
    ("sqlite/0008_profiles.sql", "c3c3015bcf2b01ddb2b9d36c364dbece948e4a39a04dc9ea3ef52b66c98fac50"),
    ("sqlite/0009_replaced_requests.sql", "1999ef321f75b248e90ae73499b51e31887fcbcafacea7f9ddd2b83d10acabdd"),
    ("sqlite/0010_retired_ids.sql", "67cf37e8fb598e66c7fbb4af5a904f306f886d9802c020155d927b4c4a9d2bf0"),
    ("sqlite/0011_import.sql", "f9e8b509ef10d2bf36df6081d37f93b31c23f839fa31c032514a3dc7fe00f71c"),
    ("sqlite/0012_absences.sql", "4e580b74a29c2d54ae6f5ad3149eced0c398eee894526b68e2e79ad4f267a6d1"),
    ("sqlite/0013_ended_rooms.sql", "d02d52be2055614ccfa28e3e1e88be4df38d3649d3a5aeb883205a5498a6c5d7"),
    ("sqlite/0014_bans.sql", "e792c851675ea21c0dd722dae60d554f03fa1d53bd1de33e0f5d73d329db65eb"),
    ("sqlite/0015_blocks.sql", "430b43c23952bac1087b94908b660642af096ab75e3fa3221d4e781ba313cb09"),
    ("sqlite/0016_reports.sql", "da6adee62af01bc233ee2743fbef8e66d5cf1085c6fed5fd358ac97c06a36107"),
    ("sqlite/0017_held.sql", "08fe5d30f736de0d7ee07043ddf3b3d90c7cae780682dc7351cc6f33b4be1700"),
];

/// The SHA-256 of each migration file as it is now.
fn checksums() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/migrations");
    let mut found = BTreeMap::new();
    for store in ["postgres", "sqlite"] {
        for entry in fs::read_dir(root.join(store)).expect("a directory of migrations") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a file name");
            let digest = Sha256::digest(fs::read(&path).expect("a migration"));
            let hex = digest.iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            found.insert(format!("{store}/{name}"), hex);
        }
    }
    found
}

#[test]
fn migration_files_never_change() {
    let known: BTreeMap<_, _> =
        MIGRATION_CHECKSUMS.iter().map(|(name, hex)| ((*name).to_owned(), (*hex).to_owned())).collect();
    assert_eq!(
        checksums(),
        known,
        "a migration file never changes: append a new one, and its checksum to `MIGRATION_CHECKSUMS`"
    );
}
