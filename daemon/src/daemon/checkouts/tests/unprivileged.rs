//! All of these tests once more, as a user in a namespace of their own.

#[path = "../../../../../tests/support/as_user.rs"]
mod as_user;

/// Gives up what a namespace permits, where this program is in one.
pub(super) fn give_up_rights() {
    as_user::give_up_rights(baton_store::layers::keep_mounter);
}

#[test]
fn all_of_this_holds_for_a_user_in_a_namespace() {
    as_user::once_more(&["daemon::checkouts::tests"]);
}
