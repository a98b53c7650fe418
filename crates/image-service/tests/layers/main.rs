//! The layer store and root filesystems, on the real kernel: needs root.
//!
//! Every form of layers passes the same tests: a new one is a variant of `store::Form` and a line at the end.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

mod archive;
mod conformance;
mod hostile;
mod life;
mod loop_device;
mod mapping;
mod mounts;
mod peers;
mod recipe;
#[path = "../pulls/slowness.rs"]
mod slowness;
mod store;
mod users;
mod volumes;

/// All tests for one form.
macro_rules! suite {
    ($form_name:ident, $form:expr, { $($module:ident: $($test:ident)+;)+ }) => {
        mod $form_name {
            $(mod $module {
                $(#[test]
                fn $test() {
                    if !rustix::process::geteuid().is_root() {
                        println!("skipped: needs root");
                        return;
                    }
                    if let Some(missing) = $form.missing() {
                        println!("skipped: {missing}");
                        return;
                    }
                    crate::$module::$test($form);
                })+
            })+
        }
    };
}

macro_rules! for_form {
    ($form_name:ident, $form:expr) => {
        suite!($form_name, $form, {
            conformance:
                files_and_their_attributes every_compression archives_that_hold_nothing whiteouts opaque_directories
                hard_links extended_attributes attributes_of_overlay_itself entries_of_one_name long_names sparse_files
                files_behind_a_link_of_the_same_layer directories_that_no_entry_describes layers_stack_and_are_shared
                many_layers usage_is_about_right wrong_bytes_are_noticed;
            hostile:
                nothing_outside_the_layer_changes contradicting_sizes_are_refused bombs_are_refused
                malformed_archives_are_refused marks_without_end_cost_a_mark_each errors_say_what_and_why the_store_itself_is_private;
            peers: gnu_tar_unpacks_the_same;
            life:
                layers_survive_a_restart a_dropped_writer_leaves_nothing what_a_crash_leaves_is_removed
                two_writers_of_one_layer a_layer_whose_place_is_not_synced_cannot_be_found what_lies_in_the_place_of_a_layer_goes unused_layers_are_collected removal_does_not_wait_for_the_disk
                a_deep_tree_is_removed_too root_filesystems_come_and_go unknown_root_filesystems_are_removed
                the_mount_table_does_not_grow a_full_disk_is_told;
            mounts:
                containers_share_pages layers_of_both_forms_stack a_killed_process_leaves_nothing
                a_mount_outlives_the_store a_lost_layer_is_told;
            users: users_see_their_ids;
            recipe:
                replaced_content_is_in_the_archive what_is_in_no_file_is_in_the_archive a_damaged_layer_is_noticed
                without_a_recipe_the_layer_is_named a_recipe_is_small;
            volumes:
                an_image_is_mounted_as_a_volume layers_of_an_image_volume_are_kept
                declared_volumes_begin_as_the_image_has_them;
        });
    };
}

for_form!(directories, crate::store::Form::Directories);
for_form!(images, crate::store::Form::Images);
for_form!(images_on_loop_devices, crate::store::Form::ImagesOnLoopDevices);
for_form!(images_on_stage, crate::store::Form::ImagesOnStage);
