//! Mounts that meet: no two at one place, and none that uncovers what another masks or protects.

use crate::Refusal;
use crate::mode::Mode;
use crate::mount::{Input, MAX_MOUNTS, MAX_NAMES, Scratch, Workspace};
use crate::names::{AbsPath, RelPath};
use crate::rule::Rule;

/// Checks all places of a plan, and hands names that an outer workspace masks or protects on to the
/// workspaces inside it.
pub(crate) fn check(
    workspaces: &mut [Workspace],
    inputs: &[Input],
    scratch: &[Scratch],
    home: &AbsPath,
) -> Result<(), Refusal> {
    countable(workspaces, inputs, scratch)?;
    let mut places: Vec<&AbsPath> = workspaces
        .iter()
        .map(|w| &w.path)
        .chain(inputs.iter().map(|i| &i.path))
        .chain(scratch.iter().map(|s| &s.path))
        .chain([home])
        .collect();
    places.sort();
    if let Some(twice) = places.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]) {
        return Err(Refusal::new(
            format!("two mounts at {twice}"),
            Rule::MountDuplicate,
            "give each workspace, input and scratch directory (the home is one) a place of its own",
        ));
    }
    for outer in workspaces.iter() {
        for input in inputs {
            not_over_a_mask(outer, &input.path)?;
        }
    }
    hand_on(workspaces)?;
    for workspace in workspaces {
        tidy(workspace);
    }
    Ok(())
}

/// What follows compares everything with everything: first, that there is not too much.
fn countable(workspaces: &[Workspace], inputs: &[Input], scratch: &[Scratch]) -> Result<(), Refusal> {
    let most = workspaces.len().max(inputs.len()).max(scratch.len());
    let names = workspaces
        .iter()
        .map(|w| w.mask.len() + w.mask_anywhere.len() + w.protect.len() + w.sockets.len())
        .max();
    if most > MAX_MOUNTS {
        return Err(Refusal::new(
            format!("{most} mounts of one kind"),
            Rule::PlanMounts,
            format!("ask for at most {MAX_MOUNTS}"),
        ));
    }
    match names {
        Some(names) if names > MAX_NAMES => Err(Refusal::new(
            format!("{names} mask and protect names of one workspace"),
            Rule::PlanNames,
            format!("give at most {MAX_NAMES}"),
        )),
        _ => Ok(()),
    }
}

/// An input inside a workspace must not show what the workspace masks.
fn not_over_a_mask(workspace: &Workspace, input: &AbsPath) -> Result<(), Refusal> {
    let Some(Some(inside)) = input.below(&workspace.path) else { return Ok(()) };
    let literal = workspace.mask.iter().find(|mask| inside.is_in(mask) || mask.is_in(&inside));
    let names = || inside.components().map(str::as_bytes);
    let pattern = workspace.mask_anywhere.iter().find(|pattern| pattern.matches(names()));
    match literal.map(ToString::to_string).or(pattern.map(ToString::to_string)) {
        Some(mask) => Err(Refusal::new(
            format!("input {input} over the mask {mask} of {}", workspace.path),
            Rule::MaskUncovered,
            "what is masked stays masked; leave the input out",
        )),
        None => Ok(()),
    }
}

fn hand_on(workspaces: &mut [Workspace]) -> Result<(), Refusal> {
    let outers = workspaces.to_vec();
    for inner in workspaces {
        for outer in &outers {
            let Some(Some(inside)) = inner.path.below(&outer.path) else { continue };
            let masked = outer.mask.iter().any(|name| inside.is_in(name));
            let protected = inner.mode != Mode::Ro && outer.protect.iter().any(|name| inside.is_in(name));
            if masked || protected {
                return Err(Refusal::new(
                    format!("workspace {} inside what {} masks or protects", inner.path, outer.path),
                    Rule::MaskUncovered,
                    "what is masked or protected stays so; choose another workspace",
                ));
            }
            inner.mask.extend(outer.mask.iter().filter_map(|name| name.below(&inside)));
            inner.protect.extend(outer.protect.iter().filter_map(|name| name.below(&inside)));
            inner.mask_anywhere.extend(outer.mask_anywhere.iter().cloned());
        }
    }
    Ok(())
}

/// Leaves out names that another one covers: a mask covers all below it, and wins over a protection.
fn tidy(workspace: &mut Workspace) {
    outermost(&mut workspace.mask);
    workspace.mask_anywhere.sort();
    workspace.mask_anywhere.dedup();
    outermost(&mut workspace.protect);
    let mask = &workspace.mask;
    workspace.protect.retain(|name| !mask.iter().any(|m| name.is_in(m)));
    if workspace.mode != Mode::Direct {
        workspace.sockets.clear();
    }
}

fn outermost(names: &mut Vec<RelPath>) {
    names.sort_by_key(|name| name.components().count());
    let mut kept: Vec<RelPath> = Vec::new();
    for name in names.drain(..) {
        if !kept.iter().any(|outer| name.is_in(outer)) {
            kept.push(name);
        }
    }
    kept.sort();
    *names = kept;
}
