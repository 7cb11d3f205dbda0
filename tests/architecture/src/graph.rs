//! Which file of a crate uses which other one.
//!
//! A name is followed to the file that defines it, through whatever passes it on; so a `mod.rs` or a `lib.rs` that only declares and
//! re-exports is used by nobody and uses nobody, and hides no circle.

use crate::facts::{Facts, Module, facts};
use std::collections::{BTreeMap, BTreeSet};

/// A use of one file by another: where, and in which words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    pub line: u32,
    pub said: String,
}

/// Files by their paths below the crate's `src`.
pub type Edges = BTreeMap<(String, String), Edge>;

struct Krate {
    files: BTreeMap<String, Facts>,
    /// Modules and the file each stands in, those inside of files too.
    modules: BTreeMap<Module, String>,
    /// The module that a file is.
    of_file: BTreeMap<String, Module>,
}

/// From the source of each file. Of a crate with both, `main.rs` is another crate and not looked at.
pub fn edges(sources: &BTreeMap<String, String>) -> Edges {
    let krate = Krate::of(sources);
    let mut edges = Edges::new();
    for file in krate.files.keys() {
        krate.edges_of(file, &mut edges);
    }
    edges
}

/// `a/b.rs` and `a/b/mod.rs` are `a::b`.
fn module_of(file: &str) -> Module {
    let mut module: Module = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") || matches!(file, "lib.rs" | "main.rs") {
        module.pop();
    }
    module
}

/// How deep names may be passed on before it counts as going round.
const STEPS_MAX: usize = 16;

impl Krate {
    fn of(sources: &BTreeMap<String, String>) -> Self {
        let has_lib = sources.contains_key("lib.rs");
        let mut files: BTreeMap<String, Facts> = sources
            .iter()
            .filter(|(file, _)| !(has_lib && file.as_str() == "main.rs"))
            .map(|(file, source)| (file.clone(), facts(source)))
            .collect();
        let only_tests: BTreeSet<Module> = files
            .iter()
            .flat_map(|(file, facts)| {
                let parent = module_of(file);
                facts
                    .test_modules
                    .iter()
                    .map(move |name| [parent.as_slice(), std::slice::from_ref(name)].concat())
            })
            .collect();
        files.retain(|file, _| {
            let module = module_of(file);
            !(1..=module.len()).any(|length| only_tests.contains(&module[..length]))
        });
        let mut modules = BTreeMap::new();
        let mut of_file = BTreeMap::new();
        for (file, facts) in &files {
            let module = module_of(file);
            modules.insert(module.clone(), file.clone());
            for inner in &facts.inner {
                modules.insert([module.as_slice(), inner].concat(), file.clone());
            }
            of_file.insert(file.clone(), module);
        }
        Self { files, modules, of_file }
    }

    fn edges_of(&self, file: &str, edges: &mut Edges) {
        let facts = &self.files[file];
        let own = &self.of_file[file];
        let mut add = |to: Option<&str>, line: u32, said: String| {
            if let Some(to) = to.filter(|to| *to != file) {
                edges.entry((file.to_owned(), to.to_owned())).or_insert(Edge { line, said });
            }
        };
        for used in &facts.uses {
            let scope = [own.as_slice(), &used.within].concat();
            let said = used.path.join("::");
            match &used.name {
                // Passed on only, if no line of code here says the name.
                Some(name) if used.is_passed_on && !facts.words.contains_key(name) => {}
                Some(_) => add(self.file_of(&scope, &used.path, 0), used.line, said),
                None => {
                    let Some(module) = self.module_at(&scope, &used.path, 0) else { continue };
                    for (word, line) in &facts.words {
                        add(self.item(&module, word, 0), *line, format!("{said}::{word}"));
                    }
                }
            }
        }
        for mention in &facts.mentions {
            let scope = [own.as_slice(), &mention.within].concat();
            add(self.file_of(&scope, &mention.path, 0), mention.line, mention.path.join("::"));
        }
    }

    /// The file of the item that a path names; `None` for what is another crate's, local, or only a module, whose items count when
    /// they are named.
    fn file_of(&self, scope: &[String], path: &[String], steps: usize) -> Option<&str> {
        let (mut module, rest) = self.begin(scope, path, steps)?;
        for (at, word) in rest.iter().enumerate() {
            let deeper = [module.as_slice(), std::slice::from_ref(word)].concat();
            if self.modules.contains_key(&deeper) {
                module = deeper;
            } else if let Some(passed_on) = self.passed_on_module(&module, word, steps) {
                module = passed_on;
            } else {
                let found = self.item(&module, &rest[at], steps);
                // What no word defines, as what a macro makes: it stands where it is looked for.
                return found.or_else(|| self.modules.get(&module).map(String::as_str));
            }
        }
        None
    }

    fn module_at(&self, scope: &[String], path: &[String], steps: usize) -> Option<Module> {
        let (mut module, rest) = self.begin(scope, path, steps)?;
        for word in rest {
            let deeper = [module.as_slice(), std::slice::from_ref(word)].concat();
            module = match self.modules.contains_key(&deeper) {
                true => deeper,
                false => self.passed_on_module(&module, word, steps)?,
            };
        }
        Some(module)
    }

    /// Where a path begins, and what of it is left.
    fn begin<'p>(
        &self,
        scope: &[String],
        path: &'p [String],
        steps: usize,
    ) -> Option<(Module, &'p [String])> {
        let first = path.first()?;
        match first.as_str() {
            "crate" => Some((Module::new(), &path[1..])),
            "self" => Some((scope.to_vec(), &path[1..])),
            "super" => {
                let ups = path.iter().take_while(|word| *word == "super").count();
                Some((scope[..scope.len().checked_sub(ups)?].to_vec(), &path[ups..]))
            }
            _ => {
                let child = [scope, std::slice::from_ref(first)].concat();
                if self.modules.contains_key(&child) {
                    return Some((child, &path[1..]));
                }
                let module = self.passed_on_module(scope, first, steps)?;
                Some((module, &path[1..]))
            }
        }
    }

    /// The `use` lines of a module, which may stand in one file with others.
    fn uses(&self, module: &[String]) -> impl Iterator<Item = &crate::facts::Use> {
        let found = self.modules.get(module).map(|file| (&self.of_file[file], &self.files[file]));
        let within = found.map(|(own, _)| module[own.len()..].to_vec()).unwrap_or_default();
        found.into_iter().flat_map(|(_, facts)| &facts.uses).filter(move |used| used.within == within)
    }

    /// A module that another one has under this name by a `use` line.
    fn passed_on_module(&self, module: &[String], name: &str, steps: usize) -> Option<Module> {
        if steps >= STEPS_MAX {
            return None;
        }
        self.uses(module)
            .filter(|used| used.name.as_deref() == Some(name) && used.path.first().is_some_and(|p| p != name))
            .find_map(|used| self.module_at(module, &used.path, steps + 1))
    }

    /// The file of what a module has under this name: by defining it, or by a `use` line.
    fn item(&self, module: &[String], name: &str, steps: usize) -> Option<&str> {
        if steps >= STEPS_MAX {
            return None;
        }
        let file = self.modules.get(module)?;
        let within = module[self.of_file[file].len()..].to_vec();
        if self.files[file].defines.contains(&(within, name.to_owned())) {
            return Some(file);
        }
        let by_name = self
            .uses(module)
            .filter(|used| used.name.as_deref() == Some(name))
            .find_map(|used| self.file_of(module, &used.path, steps + 1));
        by_name.or_else(|| {
            self.uses(module).filter(|used| used.name.is_none()).find_map(|used| {
                let from = self.module_at(module, &used.path, steps + 1)?;
                self.item(&from, name, steps + 1)
            })
        })
    }
}

/// Circles: one for each set of files that all use one another, the shortest there is in it.
pub fn circles(edges: &Edges) -> Vec<Vec<String>> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges.keys() {
        next.entry(from).or_default().push(to);
    }
    let mut told: BTreeSet<&str> = BTreeSet::new();
    let mut found = Vec::new();
    for start in next.keys() {
        if told.contains(start) {
            continue;
        }
        let (reached, circle) = around(start, &next);
        if let Some(circle) = circle {
            // All that is reached from here and leads back here is the same knot.
            told.extend(reached.into_iter().filter(|file| around_to(file, start, &next)));
            found.push(circle);
        }
    }
    found
}

/// What is reached from a file, and the shortest way back to it.
fn around<'a>(
    start: &'a str,
    next: &BTreeMap<&'a str, Vec<&'a str>>,
) -> (BTreeSet<&'a str>, Option<Vec<String>>) {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(file) = queue.pop_front() {
        for to in next.get(file).into_iter().flatten() {
            if let std::collections::btree_map::Entry::Vacant(entry) = came_from.entry(to) {
                entry.insert(file);
                queue.push_back(to);
            }
        }
    }
    let circle = came_from.contains_key(start).then(|| {
        let mut circle = vec![start.to_owned()];
        let mut at = came_from[start];
        while at != start {
            circle.push(at.to_owned());
            at = came_from[at];
        }
        circle.push(start.to_owned());
        circle.reverse();
        circle
    });
    (came_from.into_keys().collect(), circle)
}

fn around_to<'a>(from: &'a str, to: &str, next: &BTreeMap<&'a str, Vec<&'a str>>) -> bool {
    from == to || around(from, next).0.contains(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Edges {
        edges(&files.iter().map(|(name, source)| (name.to_string(), source.to_string())).collect())
    }

    fn said(edges: &Edges) -> Vec<String> {
        edges.keys().map(|(from, to)| format!("{from} -> {to}")).collect()
    }

    #[test]
    fn names_are_followed_to_the_file_that_defines_them() {
        let edges = of(&[
            ("lib.rs", "mod a; mod b; mod c; pub use a::A; pub use b::*;"),
            ("a.rs", "pub struct A;"),
            ("b/mod.rs", "mod inner; pub(crate) use inner::B; pub use self::inner as core; use crate::c;"),
            ("b/inner.rs", "pub struct B; pub fn f() { crate::c::g() }"),
            ("c.rs", "use crate::{A, B}; use crate::b::core; fn g(a: A) { core::f(); std::fs::f() }"),
        ]);
        assert_eq!(said(&edges), ["b/inner.rs -> c.rs", "c.rs -> a.rs", "c.rs -> b/inner.rs"]);
        assert_eq!(circles(&edges), [["b/inner.rs", "c.rs", "b/inner.rs"]]);
    }

    #[test]
    fn a_file_that_passes_a_name_on_and_says_it_itself_uses_it() {
        let edges = of(&[
            ("lib.rs", "mod a; mod t; pub use a::A; pub use t::*; pub fn f(a: A) {}"),
            ("a.rs", "use crate::f; pub struct A;"),
            ("t.rs", "#[cfg(test)] mod tests { use crate::f; }"),
        ]);
        assert_eq!(said(&edges), ["a.rs -> lib.rs", "lib.rs -> a.rs"]);
    }

    #[test]
    fn all_names_of_a_module_count_where_they_are_said() {
        let edges = of(&[
            ("lib.rs", "mod a; mod b; mod limits; mod tests_only;"),
            ("a.rs", "use crate::limits::*; use super::b::*; fn f() { N }"),
            ("b.rs", "pub struct NotSaid;"),
            ("limits.rs", "pub const N: u32 = 1;"),
        ]);
        assert_eq!(said(&edges), ["a.rs -> limits.rs"]);
    }

    #[test]
    fn one_circle_is_told_for_each_knot() {
        let edges = of(&[
            ("lib.rs", "mod a; mod b; mod c; mod d; mod e;"),
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "pub struct B; use crate::c::C;"),
            ("c.rs", "pub struct C; use crate::a::made_by_a_macro; use crate::b::B;"),
            ("d.rs", "pub fn d() { super::e::e() } use crate::a::X;"),
            ("e.rs", "pub fn e() { super::d::d() }"),
        ]);
        assert_eq!(circles(&edges).len(), 2, "{:?}", circles(&edges));
    }
}
