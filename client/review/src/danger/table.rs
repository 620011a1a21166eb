//! Names of files that run later by themselves.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use super::Danger::{self, Agent, Build, Ci, Editor, Environment, Git, Hooks, Python, Scripts, Shell};
use super::lookalike::plain;
use crate::path::FilePath;
use agentd_policy::names::AbsPath;

/// What is set apart even when it is deleted: it may have refused something.
pub const EVEN_DELETED: &[Danger] = &[Git, Hooks, Scripts, Agent];

/// Names in lower case, separated by blanks, at any depth: the last components of a path, of which the last may have
/// one `*`. One that ends with `/` is that directory and all that is in it; others are no directories.
///
/// A bare repository anywhere is git's too: `HEAD` is what makes git see it.
const NAMES: &[(Danger, &str)] = &[
    (
        Git,
        ".git/ .git git~*/ .gitmodules gitmod~* gi7eba~* .gitattributes gitatt~* gi7d29~* .gitconfig .gitconfig.* \
        .config/git/ .lfsconfig .git-credentials head commondir packed-refs .jj/ .hg/ .hgrc .svn/ .bzr/",
    ),
    (
        Hooks,
        ".husky/ .huskyrc* .githooks/ .git-hooks/ githooks/ git-hooks/ .hooks/ .pre-commit-config.y*ml \
        .pre-commit-hooks.yaml prek.toml lefthook.* .lefthook.* lefthook-local.* .lefthook-local.* .lefthook/ \
        .lefthook-local/ .overcommit.yml .overcommit/ .git-hooks.yml .lintstagedrc* lint-staged.config.* \
        .simple-git-hooks.* simple-git-hooks.* captainhook.json grumphp.y*ml .rusty-hook.toml .cargo-husky/ \
        commitlint.config.* .commitlintrc* .czrc",
    ),
    (
        Ci,
        ".github/workflows/ .github/actions/ action.yml action.yaml dependabot.y*ml codeowners .gitlab-ci.y*ml \
        *.gitlab-ci.yml .gitlab/ .gitea/ .forgejo/ jenkinsfile jenkinsfile.* *.jenkinsfile .jenkins/ .circleci/ \
        azure-pipelines*.yml azure-pipelines*.yaml .azure-pipelines/ .azuredevops/ .drone.* .buildkite/ \
        buildkite.y*ml .travis.y*ml .appveyor.y*ml appveyor.y*ml bitbucket-pipelines.yml .woodpecker/ \
        .woodpecker.y*ml .cirrus.* .semaphore/ .teamcity/ bamboo-specs/ wercker.yml codefresh.yml .builds/ \
        .build.yml cloudbuild.y*ml buildspec.y*ml .tekton/ .ci/ renovate.json* .renovaterc* .goreleaser.y*ml \
        netlify.toml vercel.json fly.toml",
    ),
    (
        Build,
        "makefile makefile.* gnumakefile bsdmakefile *.mk *.mak build.rs cmakelists.txt *.cmake \
        cmakepresets.json cmakeuserpresets.json configure configure.ac configure.in *.m4 autogen.sh bootstrap.sh \
        build.sh install.sh meson.build meson_options.txt meson.options *.ninja sconstruct sconscript wscript \
        *.gradle *.gradle.kts gradle.properties gradlew gradlew.bat gradle/ buildsrc/ pom.xml .mvn/ mvnw mvnw.cmd \
        build.xml ivy.xml *.sbt project/*.scala project/build.properties build.sc build.mill rakefile rakefile.* \
        *.rake gemfile *.gemspec .gemrc .bundle/ extconf.rb justfile .justfile *.just taskfile.* taskfile.dist.* \
        magefile.go earthfile build workspace *.bazel *.bzlmod *.bzl .bazelrc *.bazelrc .bazelversion tools/bazel \
        buck .buckconfig* pants.toml flake.nix default.nix shell.nix devenv.* devbox.json dockerfile dockerfile.* \
        *.dockerfile containerfile containerfile.* docker-compose* compose*.yml compose*.yaml docker-bake.* \
        vagrantfile devcontainer.json .devcontainer.json .devcontainer/ .gitpod.* .cargo/ rust-toolchain \
        rust-toolchain.toml go.work gruntfile.* gulpfile.* webpack.config.* rollup.config.* vite.config.* \
        vitest.config.* jest.config.* babel.config.* .babelrc* next.config.* nuxt.config.* svelte.config.* \
        astro.config.* postcss.config.* .postcssrc* tailwind.config.* eslint.config.* .eslintrc* prettier.config.* \
        .prettierrc* tsup.config.* metro.config.* karma.conf.* playwright.config.* cypress.config.* turbo.json \
        nx.json *.gyp *.gypi *.csproj *.fsproj *.vbproj *.vcxproj *.props *.targets *.sln *.proj build.cake \
        mix.exs rebar.config* setup.hs build.zig build.zig.zon package.swift podfile *.podspec *.pbxproj \
        fastlane/ dune dune-project build.pl makefile.pl tiltfile skaffold.yaml pulumi.yaml ansible.cfg pkgbuild \
        debian/rules snapcraft.yaml",
    ),
    (
        Scripts,
        ".npmrc .yarnrc .yarnrc.* .yarn/ .pnpmfile.* pnpmfile.* pnpm-workspace.y*ml bunfig.toml .bowerrc \
        lerna.json rush.json node_modules/.bin/ .pnp.* pip.conf pip.ini .pypirc .condarc nuget.config",
    ),
    (
        Python,
        "pyproject.toml setup.py setup.cfg conftest.py sitecustomize.py usercustomize.py *.pth *.egg-link \
        tox.ini noxfile.py pytest.ini .pytest.ini pytest.toml .pytest.toml hatch_build.py hatch.toml pdm_build.py \
        .pdm.toml poetry.toml uv.toml pixi.toml environment.y*ml pyvenv.cfg .venv/ .pythonrc* .pdbrc* .pylintrc \
        pylintrc mypy.ini .mypy.ini .coveragerc __pycache__/ *.pyc .ipython/ jupyter_*",
    ),
    (
        Environment,
        ".envrc .env* .flaskenv mise.toml mise.*.toml .mise* .mise/ .config/mise* .config/mise/ .rtx.toml \
        .tool-versions .asdfrc .nvmrc .node-version .python-version .ruby-version .ruby-gemset .java-version \
        .go-version .sdkmanrc .jvmopts .rvmrc .autoenv* .direnv/ .direnvrc .shadowenv.d/",
    ),
    (
        Editor,
        ".vscode/ *.code-workspace .idea/ *.iml *.ipr *.iws .run/ .fleet/ .zed/ .vim/ .vimrc _vimrc .gvimrc .exrc \
        .nvimrc .nvim.lua .nvim/ .lvimrc .local.vimrc .vimspector.json .dir-locals.el .dir-locals-2.el .emacs \
        .emacs.d/ .projectile *.sublime-project *.sublime-workspace .atom/ .helix/ .kak/ .theia/ .settings/ \
        .project .classpath .eclipse/ .vs/ nbproject/ .luarc.json .clangd .ccls compile_commands.json .nova/",
    ),
    (
        Agent,
        ".claude/ .claude.json claude.md claude.*.md agents.md agents.*.md agent.md .agents/ .agent/ skill.md \
        .mcp.json mcp.json mcp.toml .mcp/ .cursor/ .cursorrules .cursorignore .cursorindexingignore .gemini/ \
        gemini.md .geminiignore .codex/ codex.md .aider* .opencode/ opencode.json* .github/copilot* \
        .github/copilot/ .github/instructions/ .github/prompts/ .github/chatmodes/ .github/agents/ .github/skills/ \
        .copilot/ .continue/ .continuerc.json .continueignore .windsurf/ .windsurfrules .codeium/ .codeiumignore \
        .cline/ .clinerules/ .clinerules* .clineignore .roo/ .roomodes .roorules* .rooignore .kilocode/ \
        .kilocodemodes .kiro/ .qwen/ qwen.md .amp/ .ampcode/ .goose/ .goosehints .gooseignore .augment/ \
        .augment-guidelines .augmentignore .junie/ .trae/ .void/ .amazonq/ .factory/ .crush/ .crush.json crush.json \
        crush.md .openhands/ .openhands_instructions .zencoder/ .tabnine/ .sourcegraph/ .supermaven* .replit \
        replit.md .rules warp.md .warp/ .serena/ .agentd/",
    ),
    (
        Shell,
        ".bashrc .bash_* .bashrc.d/ .profile .zshrc .zshenv .zprofile .zlogin .zlogout .zsh/ .kshrc .mkshrc .shrc \
        .cshrc .tcshrc .login .logout .config/fish/ config.fish .inputrc .screenrc .tmux.conf .tmux/ .local/bin/ \
        .config/autostart/ .config/systemd/ .local/share/applications/ .ssh/ .gnupg/ .netrc .curlrc .wgetrc \
        .gdbinit .gdbearlyinit .lldbinit* .irbrc .pryrc .rprofile .renviron .rdbgrc* .ghci .sqliterc .psqlrc \
        .my.cnf .octaverc .xinitrc .xprofile .xsession* .pam_environment .muttrc .mailcap .forward .procmailrc \
        .rhosts .shosts .k5login .ansible.cfg .rpmmacros .tclshrc .wishrc .nanorc .docker/ .kube/ .aws/ \
        autorun.inf desktop.ini *.desktop *.service *.timer crontab *.lnk profile.ps1",
    ),
];

struct Pattern {
    danger: Danger,
    /// The components before the last one.
    before: Vec<&'static str>,
    /// What the last one begins and ends with; `None` if it is looked up whole.
    glob: Option<(&'static str, &'static str)>,
    is_dir: bool,
}

/// The patterns by their last components, and those with a `*` in it.
type Table = (HashMap<&'static str, Vec<Pattern>>, Vec<Pattern>);

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let (mut exact, mut globs): (HashMap<_, Vec<_>>, Vec<_>) = (HashMap::new(), Vec::new());
    for (danger, names) in NAMES {
        for name in names.split_whitespace() {
            let mut before: Vec<&str> = name.trim_end_matches('/').split('/').collect();
            let last = before.pop().unwrap_or_default();
            let glob = last.split_once('*');
            let pattern = Pattern { danger: *danger, before, glob, is_dir: name.ends_with('/') };
            match glob {
                Some(_) => globs.push(pattern),
                None => exact.entry(last).or_default().push(pattern),
            }
        }
    }
    (exact, globs)
});

/// The last names of a workspace's own path that mean something for what is in it, if they begin with a dot:
/// `workflows/x.yml` in a workspace `.github`.
const OWN: usize = 2;

/// The dangers of files that could be below a link called `name`: it stands for the directory that a pattern needs
/// before its last name.
pub fn below_link(name: &[u8]) -> BTreeSet<Danger> {
    let (exact, globs) = &*TABLE;
    let name = plain(name);
    let all = exact.values().flatten().chain(globs);
    all.filter(|pattern| pattern.before.contains(&name.as_str())).map(|pattern| pattern.danger).collect()
}

/// The dangers that `path` of the workspace at `top` has by its name. A backslash separates components too: it does
/// elsewhere.
pub fn by_name(top: &AbsPath, path: &FilePath, is_dir: bool) -> BTreeSet<Danger> {
    let own: Vec<&str> =
        top.as_str().rsplit('/').take(OWN).take_while(|name| name.starts_with('.')).collect();
    let own = own.into_iter().rev().map(|name| plain(name.as_bytes()));
    let names = path.components().flat_map(|component| component.split(|byte| *byte == b'\\')).map(plain);
    let components: Vec<String> = own.chain(names).collect();
    let (exact, globs) = &*TABLE;
    let mut found = BTreeSet::new();
    for (at, component) in components.iter().enumerate() {
        let is_last = at + 1 == components.len();
        let before = components.get(..at).unwrap_or_default();
        let fits = |pattern: &&Pattern| {
            (pattern.is_dir || (is_last && !is_dir))
                && before.len() >= pattern.before.len()
                && before.iter().rev().zip(pattern.before.iter().rev()).all(|(a, b)| a == b)
        };
        // Cheapest first: there are many names.
        let globs = globs
            .iter()
            .filter(fits)
            .filter(|pattern| pattern.glob.is_some_and(|glob| matches(glob, component)));
        let exact = exact.get(component.as_str()).into_iter().flatten().filter(fits);
        found.extend(exact.chain(globs).map(|pattern| pattern.danger));
    }
    found
}

/// Whether a component of a path is git's directory, in any of its forms.
pub fn is_git(component: &[u8]) -> bool {
    let name = plain(component);
    name == ".git" || name.starts_with("git~")
}

fn matches((start, end): (&str, &str), name: &str) -> bool {
    name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Vec<Danger> {
        let top = AbsPath::parse("/srv/p").unwrap();
        by_name(&top, &FilePath::parse(path.as_bytes()).unwrap(), false).into_iter().collect()
    }

    #[test]
    fn names_at_any_depth_and_in_any_case() {
        for (path, danger) in [
            (".git/config", Git),
            ("a/.GIT/hooks/x", Git),
            ("a/GIT~1/x", Git),
            ("a/.git\\config", Git),
            ("sub/repo/HEAD", Git),
            (".husky/pre-commit", Hooks),
            ("a/.github/Workflows/ci.yml", Ci),
            ("a/Makefile", Build),
            ("rules.MK", Build),
            ("BUILD", Build),
            ("a/BUILD.bazel", Build),
            (".cargo/config.toml", Build),
            ("build.gradle.kts", Build),
            ("x/.npmrc", Scripts),
            ("a/conftest.py", Python),
            ("x.pth", Python),
            (".env.local", Environment),
            (".vscode/tasks.json", Editor),
            ("a/CLAUDE.md", Agent),
            (".github/copilot-instructions.md", Agent),
            (".aider.conf.yml", Agent),
            ("home/.bashrc", Shell),
        ] {
            assert_eq!(of(path), [danger], "{path}");
        }
        for path in [
            "src/main.rs",
            "src/hooks/use.ts",
            "package-lock.json",
            "a/makefiles.txt",
            "git/x",
            ".editorconfig",
            "workflows/ci.yml",
        ] {
            assert_eq!(of(path), [], "{path}");
        }
        let by_name = |top: &str, path: &[u8], is_dir| {
            by_name(&AbsPath::parse(top).unwrap(), &FilePath::parse(path).unwrap(), is_dir)
        };
        assert!(by_name("/srv/p", b"build", true).is_empty(), "a directory");
        // A workspace can be the directory that its files mean something in.
        for (top, path) in
            [("/p/.github", "workflows/e.yml"), ("/p/.claude", "settings.json"), ("/p/.husky", "x")]
        {
            assert!(!by_name(top, path.as_bytes(), false).is_empty(), "{top}/{path}");
        }
        assert!(by_name("/home/gradle/fastlane/x", b"a.c", false).is_empty());
        assert!(!by_name("/srv/p", b".vscode", true).is_empty());
    }

    #[test]
    fn every_danger_by_name_has_one_row() {
        let rows: Vec<Danger> = NAMES.iter().map(|(danger, _)| *danger).collect();
        assert!(rows.is_sorted() && rows.windows(2).all(|pair| pair[0] != pair[1]));
        for name in NAMES.iter().flat_map(|(_, names)| names.split_whitespace()) {
            assert!(name.matches('*').count() <= 1 && name.to_lowercase() == name, "{name}");
        }
    }
}
