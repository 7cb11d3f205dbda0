//! The checks: each answers what is broken, in words, with the file, the line and the rule.

use crate::graph::{Edges, circles, edges};
use crate::rules::{FLOORS, HOUSES, House, KNOWN_CIRCLES, KNOWN_FLOORS, Known, NEVER, NOT_YET_OPENED};
use crate::workspace::{Member, read};
use std::collections::BTreeMap;
use std::path::Path;

/// Everything, for the workspace at `root`, with the project's own rules.
pub fn broken(root: &Path) -> std::io::Result<Vec<String>> {
    let members = read(root)?;
    let mut broken = floors(&members, KNOWN_FLOORS);
    let mut all = Edges::new();
    for member in members.values() {
        let place = format!("{}/src/", member.place);
        let whole = |file: String| format!("{place}{file}");
        all.extend(edges(&member.sources).into_iter().map(|((from, to), e)| ((whole(from), whole(to)), e)));
    }
    for house in HOUSES {
        let files = members
            .values()
            .flat_map(|member| member.sources.keys().map(|file| format!("{}/src/{file}", member.place)));
        broken.extend(rooms(house, files, &all));
    }
    for (place, _) in NOT_YET_OPENED {
        broken.extend(leave_out(place, &mut all));
    }
    broken.extend(no_circles(all, KNOWN_CIRCLES));
    Ok(broken)
}

/// Takes the uses inside of a place away, which is to have circles still.
fn leave_out(place: &str, all: &mut Edges) -> Option<String> {
    let is_in = |file: &str| file.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'));
    let (inside, others): (Edges, Edges) =
        std::mem::take(all).into_iter().partition(|((from, to), _)| is_in(from) && is_in(to));
    *all = others;
    circles(&inside)
        .is_empty()
        .then(|| format!("NOT_YET_OPENED: {place} has no circle any more; take the line away"))
}

fn is_known(known: &[Known], from: &str, to: &str) -> bool {
    known.iter().any(|k| k.from == from && k.to == to)
}

/// A crate uses only crates of floors below, and none that it is never to know.
pub fn floors(members: &BTreeMap<String, Member>, known: &[Known]) -> Vec<String> {
    let floor = |name: &str| FLOORS.iter().position(|crates| crates.contains(&name));
    let mut broken = Vec::new();
    let mut needed = Vec::new();
    for (name, member) in members {
        let Some(own) = floor(name) else {
            broken.push(format!("{}: stands on no floor; give it one in FLOORS", member.place));
            continue;
        };
        for (used, line) in &member.uses {
            let never = NEVER.iter().find(|(from, to, _)| from == name && to == used);
            let rule = match (never, floor(used)) {
                (Some((.., why)), _) => format!("{name} never knows {used}: {why}"),
                (None, Some(other)) if other < own => continue,
                (None, _) => format!("a crate uses only floors below its own; {name} stands on {}", own + 1),
            };
            match is_known(known, name, used) {
                true => needed.push((name.as_str(), used.as_str())),
                false => {
                    broken.push(format!("{}/Cargo.toml:{line}: uses {used}. Rule: {rule}", member.place))
                }
            }
        }
    }
    for k in known.iter().filter(|k| !needed.contains(&(k.from, k.to))) {
        broken.push(format!("KNOWN_FLOORS: {} uses {} no more; take the line away", k.from, k.to));
    }
    broken
}

/// A room uses only rooms below, and never what knows them all.
pub fn rooms(house: &House, files: impl Iterator<Item = String>, edges: &Edges) -> Vec<String> {
    let room = |file: &str| -> Option<String> {
        let inside = file.strip_prefix(house.place)?.strip_prefix('/')?;
        Some(inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs").to_owned())
    };
    let is_door = |file: &str| {
        house
            .doors
            .iter()
            .any(|door| file.strip_prefix(house.place).and_then(|rest| rest.strip_prefix('/')) == Some(*door))
    };
    let level = |room: &str| house.rooms.iter().position(|rooms| rooms.contains(&room));
    let files: Vec<String> = files.filter(|file| room(file).is_some()).collect();
    if !files.iter().any(|file| file[house.place.len() + 1..].contains('/')) {
        return Vec::new();
    }
    let mut present: BTreeMap<String, String> = files
        .into_iter()
        .filter(|file| !is_door(file))
        .filter_map(|file| Some((room(&file)?, file)))
        .collect();
    let order = house.rooms.iter().map(|rooms| rooms.join(", ")).collect::<Vec<_>>().join(" < ");
    present.retain(|room, _| level(room).is_none());
    let mut broken: Vec<String> = present
        .into_iter()
        .map(|(room, file)| {
            format!("{file}: stands in no room that is known; give {room} a place in HOUSES: {order}")
        })
        .collect();
    for ((from, to), edge) in edges {
        let (Some(own), Some(other)) = (room(from), room(to)) else { continue };
        if is_door(from) || own == other {
            continue;
        }
        let said = format!("{from}:{}: uses {} ({to})", edge.line, edge.said);
        if is_door(to) {
            broken.push(format!("{said}. Rule: no room knows {}", to.rsplit('/').next().unwrap_or(to)));
        } else if let (Some(own_level), Some(level)) = (level(&own), level(&other))
            && level >= own_level
        {
            broken.push(format!(
                "{said}. Rule: a room uses only rooms below; {own} may not use {other}: {order}"
            ));
        }
    }
    broken
}

/// No file uses itself by way of others.
pub fn no_circles(mut edges: Edges, known: &[Known]) -> Vec<String> {
    let mut broken = Vec::new();
    for k in known {
        let pair = (k.from.to_owned(), k.to.to_owned());
        // Alone put back among what is left, it must still close a circle.
        let mut with = edges.clone();
        for other in known.iter().filter(|other| (other.from, other.to) != (k.from, k.to)) {
            with.remove(&(other.from.to_owned(), other.to.to_owned()));
        }
        let before = circles(&with).len();
        with.remove(&pair);
        if circles(&with).len() == before {
            broken.push(format!(
                "KNOWN_CIRCLES: {} using {} closes no circle; take the line away",
                k.from, k.to
            ));
        }
    }
    for k in known {
        edges.remove(&(k.from.to_owned(), k.to.to_owned()));
    }
    for circle in circles(&edges) {
        let mut text = String::from("Rule: files do not use one another in a circle. This one does:");
        for pair in circle.windows(2) {
            let edge = &edges[&(pair[0].clone(), pair[1].clone())];
            text += &format!("\n    {}:{}: uses {} ({})", pair[0], edge.line, edge.said, pair[1]);
        }
        broken.push(text);
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        files.iter().map(|(name, source)| (name.to_string(), source.to_string())).collect()
    }

    fn member(uses: &[&str]) -> Member {
        Member {
            place: "crates/x".into(),
            uses: uses.iter().map(|u| (u.to_string(), 7)).collect(),
            ..Member::default()
        }
    }

    #[test]
    fn a_crate_that_uses_its_own_floor_or_one_above_is_told() {
        let members = BTreeMap::from([("store".into(), member(&["domain", "catalog", "engine"]))]);
        let broken = floors(&members, &[]);
        assert_eq!(broken.len(), 2, "{broken:?}");
        assert!(broken[1].starts_with("crates/x/Cargo.toml:7: uses engine. Rule: "), "{broken:?}");

        let known = [
            Known { from: "store", to: "catalog", why: "" },
            Known { from: "store", to: "engine", why: "" },
            Known { from: "store", to: "api", why: "" },
        ];
        let broken = floors(&members, &known);
        assert_eq!(broken, ["KNOWN_FLOORS: store uses api no more; take the line away"]);
        assert_eq!(floors(&BTreeMap::from([("new".into(), member(&[]))]), &[]).len(), 1);
    }

    #[test]
    fn a_room_that_uses_one_beside_or_above_or_the_door_is_told() {
        let house =
            House { place: "p", rooms: &[&["core"], &["a", "b"], &["c"]], doors: &["open.rs", "lib.rs"] };
        let sources = files(&[
            ("lib.rs", "mod open; mod core; mod a; mod b; mod c; mod stray;"),
            ("open.rs", "use crate::{a::A, core::K, c::C}; pub struct State;"),
            ("core/mod.rs", "pub struct K;"),
            ("a.rs", "use crate::core::K; pub struct A;"),
            ("b/mod.rs", "mod deep; pub struct B;"),
            ("b/deep.rs", "use super::B;\nuse crate::a::A; use crate::open::State;"),
            ("c.rs", "use crate::{a::A, b::B}; pub struct C;"),
            ("stray.rs", ""),
        ]);
        let all: Edges = edges(&sources)
            .into_iter()
            .map(|((from, to), edge)| ((format!("p/{from}"), format!("p/{to}")), edge))
            .collect();
        let broken = rooms(&house, sources.keys().map(|file| format!("p/{file}")), &all);
        assert_eq!(
            broken,
            [
                "p/stray.rs: stands in no room that is known; give stray a place in HOUSES: core < a, b < c",
                "p/b/deep.rs:2: uses crate::a::A (p/a.rs). Rule: a room uses only rooms below; b may not use a: core < a, b < c",
                "p/b/deep.rs:2: uses crate::open::State (p/open.rs). Rule: no room knows open.rs",
            ]
        );
    }

    #[test]
    fn a_circle_is_told_with_every_step() {
        let all = edges(&files(&[
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::B; pub struct A;"),
            ("b.rs", "pub struct B;\nfn f(a: super::a::A) {}"),
        ]));
        let broken = no_circles(all.clone(), &[]);
        assert_eq!(
            broken,
            [
                "Rule: files do not use one another in a circle. This one does:\n    a.rs:1: uses crate::b::B (b.rs)\n    \
                b.rs:2: uses super::a::A (a.rs)"
            ]
        );
        assert!(no_circles(all.clone(), &[Known { from: "b.rs", to: "a.rs", why: "" }]).is_empty());
        let stale =
            [Known { from: "b.rs", to: "a.rs", why: "" }, Known { from: "c.rs", to: "a.rs", why: "" }];
        assert_eq!(no_circles(all, &stale).len(), 1);
    }
}
