//! Imports run downward: ARCHITECTURE.md lists the layers of a crate from the top down, and the rooms in each layer. A room is a
//! module directly below the crate's root, with all of its submodules.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::{CrateModules, SourceFile};
use super::{Complaint, Tree};

const MAP_DOCUMENT: &str = "ARCHITECTURE.md";

/// The words with which a list of layers begins, before the directory in backticks.
const LAYERS_HEADING: &str = "Layers of ";

/// The room to which items in the crate's root belong that are in no module.
const ROOT_ROOM: &str = "lib";

/// The layers of one crate.
struct Layers<'a> {
    /// The directory of the crate's sources.
    directory: &'a str,
    /// The layer of each room, counted from the top; the top layer is 0.
    layer_by_room: BTreeMap<&'a str, usize>,
}

impl<'a> Layers<'a> {
    /// Reads the lists of layers from ARCHITECTURE.md. The rooms of a layer are in backticks before the colon.
    fn read(map: &'a str) -> Vec<Self> {
        let mut lists: Vec<Self> = Vec::new();
        let mut within = false;
        for line in map.lines() {
            within = !line.starts_with('#') && (within || line.starts_with(LAYERS_HEADING));
            if let Some(heading) = line.strip_prefix(LAYERS_HEADING) {
                let directory = heading.split('`').nth(1).unwrap_or_default();
                lists.push(Self { directory, layer_by_room: BTreeMap::new() });
            }
            let Some((number, rooms)) = line.split_once(". `").filter(|_| within) else { continue };
            let (Ok(number), Some(list)) = (number.parse::<usize>(), lists.last_mut()) else { continue };
            let rooms = rooms.split(':').next().unwrap_or_default();
            list.layer_by_room.extend(rooms.split('`').step_by(2).map(|room| (room, number)));
        }
        lists
    }

    fn layer_of(&self, room: &str) -> Option<usize> {
        self.layer_by_room.get(room).copied()
    }
}

/// The room to which a path of a module or an item belongs.
fn room_of_path<'p, S: AsRef<str>>(path: &'p [S], modules: &CrateModules<'_>) -> &'p str {
    match path.first() {
        Some(first) if modules.has(&path[..1]) => first.as_ref(),
        _ => ROOT_ROOM,
    }
}

pub(super) fn imports_run_downward(tree: &Tree) -> Vec<Complaint> {
    let Some(map) = tree.text(MAP_DOCUMENT) else { return Vec::new() };
    let mut complaints = Vec::new();
    for layers in Layers::read(map) {
        let modules = CrateModules::read(tree, layers.directory);
        for file in modules.files() {
            complaints.extend(upward_imports(file, &layers, &modules));
        }
        let known: BTreeSet<_> = modules.files().map(|file| room_of_path(&file.module, &modules)).collect();
        for gone in layers.layer_by_room.keys().filter(|room| !known.contains(*room)) {
            let message = format!("there is no room `{gone}` in {}: take it off the list", layers.directory);
            complaints.push(Complaint::for_file(MAP_DOCUMENT, message));
        }
    }
    complaints
}

/// Complains about imports of a file from a higher layer.
fn upward_imports(file: &SourceFile<'_>, layers: &Layers<'_>, modules: &CrateModules<'_>) -> Vec<Complaint> {
    let from = room_of_path(&file.module, modules);
    let Some(own) = layers.layer_of(from) else {
        let message = format!("the room `{from}` is not on the map: add it to a layer in {MAP_DOCUMENT}");
        return vec![Complaint::for_file(file.path, message)];
    };
    let mut complaints = Vec::new();
    let mut seen = BTreeSet::new();
    for (line, path) in &file.imports {
        let to = room_of_path(path, modules);
        if to != from && layers.layer_of(to).is_some_and(|layer| layer <= own) && seen.insert((line, to)) {
            let message = format!(
                "`{from}` must not import `{to}`, which is no layer below it: see the layers in {MAP_DOCUMENT}"
            );
            complaints.push(Complaint::at_line(file.path, *line, message));
        }
    }
    complaints
}

/// In a folder, at most two files may import each other, directly or through other files. Submodules count as part of their file.
pub(super) fn circles_are_small(tree: &Tree) -> Vec<Complaint> {
    let Some(map) = tree.text(MAP_DOCUMENT) else { return Vec::new() };
    let mut complaints = Vec::new();
    for layers in Layers::read(map) {
        let modules = CrateModules::read(tree, layers.directory);
        for (folder, edges) in import_edges(&modules) {
            for circle in import_circles(&edges).into_iter().filter(|circle| circle.len() > 2) {
                let names: Vec<_> = circle.iter().map(|name| format!("{name}.rs")).collect();
                let message = format!(
                    "{} import each other in a circle: move what they share below them",
                    names.join(", ")
                );
                complaints.push(Complaint::for_file(&format!("{}{folder}", layers.directory), message));
            }
        }
    }
    complaints
}

type ImportEdges = BTreeMap<String, BTreeSet<String>>;

/// The imports between the files of each folder below the crate's root. For the rooms themselves the layers are checked instead.
fn import_edges(modules: &CrateModules<'_>) -> BTreeMap<String, ImportEdges> {
    let mut folders: BTreeMap<String, ImportEdges> = BTreeMap::new();
    for file in modules.files() {
        for (_, path) in &file.imports {
            let common = file.module.iter().zip(path).take_while(|(a, b)| **a == b.as_str()).count();
            let (Some(from), Some(to)) = (file.module.get(common), path.get(common)) else { continue };
            if common > 0 && modules.has(&path[..=common]) {
                let folder = folders.entry(file.module[..common].join("/")).or_default();
                folder.entry((*from).to_owned()).or_default().insert(to.clone());
            }
        }
    }
    folders
}

/// Finds the sets of files that all import each other, directly or through other files.
fn import_circles(edges: &ImportEdges) -> BTreeSet<BTreeSet<&str>> {
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        edges.keys().map(|name| (name.as_str(), reachable_from(name, edges))).collect();
    let circle = |name: &'_ str| {
        reach
            .iter()
            .filter(|(other, to)| to.contains(name) && reach[name].contains(*other))
            .map(|(other, _)| *other)
            .collect()
    };
    reach.keys().map(|name| circle(name)).collect()
}

/// The files that `name` imports, directly or through other files.
fn reachable_from<'a>(name: &str, edges: &'a ImportEdges) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&str> = vec![name];
    while let Some(name) = next.pop() {
        for to in edges.get(name).into_iter().flatten() {
            if found.insert(to.as_str()) {
                next.push(to);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::run_rule;

    const EXAMPLE_MAP: &str = "Layers of `a/src/`, from the top down:\n\n1. `lib`, `door`: the top\n2. `hall`: between\n3. `cellar`: the ground\n";

    fn check_layers(files: &[(&str, &str)]) -> Vec<String> {
        let all: Vec<_> = [
            (MAP_DOCUMENT, EXAMPLE_MAP),
            ("a/src/lib.rs", "mod door; mod hall; mod cellar;"),
            ("a/src/door.rs", ""),
            ("a/src/hall.rs", ""),
            ("a/src/cellar.rs", ""),
        ]
        .into_iter()
        .filter(|(path, _)| !files.iter().any(|(other, _)| other == path))
        .chain(files.iter().copied())
        .collect();
        run_rule(imports_run_downward, &all)
    }

    #[test]
    fn an_import_from_a_lower_room_is_reported() {
        for (code, to) in [
            ("use crate::door::Bell;", "door"),
            ("\nuse super::door;", "door"),
            ("use crate::{cellar, door::{Bell, Lock}};", "door"),
            ("fn f() { crate::door::ring() }", "door"),
            ("use crate::House;", "lib"),
        ] {
            let found = check_layers(&[("a/src/hall.rs", code)]);
            assert!(!found.is_empty(), "{code}");
            assert!(found[0].contains(&format!("`hall` must not import `{to}`")), "{code}: {found:?}");
        }
        let found = check_layers(&[("a/src/hall/stairs.rs", "\n\nuse super::super::door::Bell;")]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("a/src/hall/stairs.rs:3: "), "{found:?}");
        let found = check_layers(&[("a/src/door.rs", "use crate::House;")]);
        assert_eq!(found.len(), 1, "rooms of one layer do not import each other: {found:?}");
    }

    #[test]
    fn imports_that_run_downward_or_stay_in_their_room_pass() {
        for code in [
            "use crate::cellar::{Wine, shelf::Jam};",
            "use super::cellar;",
            "use self::stairs::Step;\nmod stairs;",
            "pub(crate) fn f() {}\n// crate::door\nconst PATH: &str = \"crate::door\";",
            "#[cfg(test)]\nmod tests {\n    use crate::door::Bell;\n}",
        ] {
            assert_eq!(check_layers(&[("a/src/hall.rs", code)]), [""; 0], "{code}");
        }
        assert_eq!(
            check_layers(&[("a/src/hall/stairs.rs", "use super::Step; use crate::hall::Wall;")]),
            [""; 0]
        );
        assert_eq!(check_layers(&[("a/src/hall/tests.rs", "use crate::door::Bell;")]), [""; 0], "tests may");
    }

    #[test]
    fn a_room_that_is_not_on_the_map_and_one_that_is_gone_are_reported() {
        let found = check_layers(&[("a/src/attic.rs", "")]);
        assert_eq!(
            found,
            ["a/src/attic.rs: the room `attic` is not on the map: add it to a layer in ARCHITECTURE.md"]
        );
        let map = format!("{EXAMPLE_MAP}4. `well`: outside\n");
        let found = check_layers(&[(MAP_DOCUMENT, &map)]);
        assert_eq!(found, ["ARCHITECTURE.md: there is no room `well` in a/src/: take it off the list"]);
    }

    #[test]
    fn a_circle_of_more_than_two_files_in_a_folder_is_reported() {
        let files = [
            (MAP_DOCUMENT, EXAMPLE_MAP),
            ("a/src/hall.rs", "mod one; mod two; mod three;"),
            ("a/src/hall/one.rs", "use super::two::Two;"),
            ("a/src/hall/two.rs", "use super::three::Three;\nuse super::one::One;"),
            ("a/src/hall/three/deep.rs", "use crate::hall::one::One;"),
            ("a/src/hall/three.rs", "mod deep; use self::deep::Deep;"),
        ];
        let found = run_rule(circles_are_small, &files);
        assert_eq!(
            found,
            [
                "a/src/hall: one.rs, three.rs, two.rs import each other in a circle: move what they share below them"
            ]
        );
        let mut two = files;
        two[4].1 = "";
        assert_eq!(run_rule(circles_are_small, &two), [""; 0], "two files may");
    }
}
