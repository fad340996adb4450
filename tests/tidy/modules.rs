//! Module order: a module uses those above it in the list of its parent, never those below.

use super::source::Source;

/// Uses of a module by one that stands above it, in one crate.
pub(crate) fn out_of_order(name: &str, sources: &[Source]) -> Vec<String> {
    let of_crate: Vec<_> =
        sources.iter().filter(|source| source.crate_name() == Some(name)).collect();
    let mut problems = Vec::new();
    for parent in &of_crate {
        let children = parent.children();
        let above = parent.module();
        for source in &of_crate {
            let module = source.module();
            let Some(own) = module.strip_prefix(&above[..]).and_then(<[_]>::first) else {
                continue;
            };
            let Some(own_place) = children.iter().position(|child| child == own) else { continue };
            for used in source.paths() {
                let Some(sibling) = sibling(&used.path, &above, &module) else { continue };
                let place = children.iter().position(|child| *child == sibling);
                if place.is_some_and(|place| place > own_place) {
                    problems.push(format!(
                        "{}:{}: {own} uses {sibling}, which stands below it in {}",
                        source.path, used.line, parent.path
                    ));
                }
            }
        }
    }
    problems.dedup();
    problems
}

/// Which child of `above` a path leads into, as a file of the module `module` writes it.
fn sibling(path: &str, above: &[&str], module: &[&str]) -> Option<String> {
    let names: Vec<_> = path.split("::").collect();
    let ups = names.iter().take_while(|&&name| name == "super").count();
    let full: Vec<&str> = match names.first() {
        Some(&"crate") => names.get(1..)?.to_vec(),
        // Deeper ones are seen from the file that they lead to; `super` in a module in braces says
        // less than it seems to, and is not worth a parser.
        Some(&"super") if ups <= module.len() => {
            [module.get(..module.len() - ups)?, names.get(ups..)?].concat()
        }
        _ => return None,
    };
    let inner = full.strip_prefix(above)?;
    inner.first().map(|&name| name.to_owned())
}
