//! Texts of a guest's symbolic links as the host may see them. The host's kernel follows them in the host's own tree: one
//! that says `/etc/passwd` must lead to the guest's, and none may lead out of the guest.

/// The text of the link at `path` (absolute, in the guest). One that is relative and stays inside is left as it is.
///
/// What is changed has all its `..` in front: they lead up real directories, and only as many as there are. After them
/// come names, each of which may be another link, which is contained in turn.
pub fn contain(path: &[u8], text: &[u8]) -> Vec<u8> {
    let depth = path.iter().filter(|byte| **byte == b'/').count().saturating_sub(1);
    if text.first() != Some(&b'/') && stays_inside(depth, text) {
        return text.to_vec();
    }
    let (mut up, mut names): (usize, Vec<&[u8]>) = (0, Vec::new());
    if text.first() == Some(&b'/') {
        up = depth;
    }
    for part in parts(text) {
        match part {
            b".." if names.pop().is_none() => up = (up + 1).min(depth),
            b".." => {}
            name => names.push(name),
        }
    }
    let all: Vec<&[u8]> = std::iter::repeat_n(b"..".as_slice(), up).chain(names).collect();
    if all.is_empty() { b".".to_vec() } else { all.join(&b'/') }
}

/// Whether all `..` are in front, and no more than there are directories.
fn stays_inside(depth: usize, text: &[u8]) -> bool {
    let up = parts(text).take_while(|part| *part == b"..").count();
    up <= depth && parts(text).skip(up).all(|part| part != b"..")
}

fn parts(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(path: &str, text: &str) -> String {
        String::from_utf8(contain(path.as_bytes(), text.as_bytes())).unwrap()
    }

    #[test]
    fn relative_links_that_stay_inside_are_as_they_were_made() {
        for text in ["b", "./b", "b/c", "../usr/bin/vi", "../../etc", "a//b/", "", ".."] {
            assert_eq!(shown("/home/lima/link", text), text);
        }
    }

    #[test]
    fn s23_absolute_links_lead_to_the_guests_own_files() {
        assert_eq!(shown("/x", "/etc/passwd"), "etc/passwd");
        assert_eq!(shown("/home/lima/x", "/etc/passwd"), "../../etc/passwd");
        assert_eq!(shown("/home/lima/x", "/"), "../..");
        assert_eq!(shown("/x", "/"), ".");
        assert_eq!(shown("/a/x", "/../../etc"), "../etc");
    }

    #[test]
    fn s23_no_link_leads_out_of_the_guest() {
        assert_eq!(shown("/x", "../../../etc/passwd"), "etc/passwd");
        assert_eq!(shown("/home/lima/x", "../../../../../etc"), "../../etc");
        // A link to a shallow directory in between would make the later ones lead out.
        assert_eq!(shown("/a/b/c/x", "s/../../../../etc"), "../../../etc");
        assert_eq!(shown("/a/b/x", "../s/../../y"), "../../y");
        assert_eq!(shown("/a/x", "s/.."), ".");
    }
}
