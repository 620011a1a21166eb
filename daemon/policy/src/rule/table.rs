//! Every rule: its variant, its name, what it is shown with behind it if anything, its class if that is not
//! `FailedPrecondition`, and what it means, as agentd-rules(7) has it (`code` in backquotes).

use std::sync::LazyLock;

use super::Class;
use crate::limits::Limit;
use crate::step::Step;

macro_rules! class {
    () => {
        Class::FailedPrecondition
    };
    ($class:ident) => {
        Class::$class
    };
}

macro_rules! argument {
    () => {
        None
    };
    ($argument:literal) => {
        Some($argument)
    };
}

macro_rules! rules {
    ($($section:literal {
        $($variant:ident $name:literal $(<$argument:literal>)? $([$class:ident])? $text:literal)*
    })*) => {
        /// A rule by which something is refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $($(#[doc = $text] $variant,)*)*
            /// A limit is outside of what the site allows one session: `bounds.LIMIT`.
            Bounds(Limit),
            /// A step of the build failed: `build.STEP`.
            Build(Step),
        }

        impl Rule {
            /// The sections of agentd-rules(7), each with its rules.
            pub(super) const SECTIONS: &'static [(&'static str, &'static [Self])] =
                &[$(($section, &[$(Self::$variant),*])),*];

            /// The name: words of lower case with a dot between them.
            pub fn name(self) -> &'static str {
                match self {
                    Self::Bounds(limit) => limit.rule_name(),
                    Self::Build(step) => of_step(step),
                    $($(Self::$variant => $name,)*)*
                }
            }

            /// What kind of refusal it makes.
            pub fn class(self) -> Class {
                match self {
                    Self::Bounds(_) | Self::Build(_) => class!(),
                    $($(Self::$variant => class!($($class)?),)*)*
                }
            }

            /// What events have behind the name, as agentd-rules(7) calls it.
            pub(crate) fn argument(self) -> Option<&'static str> {
                match self {
                    Self::Bounds(_) | Self::Build(_) => None,
                    $($(Self::$variant => argument!($($argument)?),)*)*
                }
            }

            /// What it means, in sentences.
            pub fn text(self) -> &'static str {
                match self {
                    Self::Bounds(limit) => limit.rule_text(),
                    Self::Build(_) => "This step of building the session failed; the launcher's log has more.",
                    $($(Self::$variant => $text,)*)*
                }
            }
        }
    };
}

fn of_step(step: Step) -> &'static str {
    static NAMES: LazyLock<Vec<String>> =
        LazyLock::new(|| Step::ALL.iter().map(|step| format!("build.{step}")).collect());
    let at = Step::ALL.iter().position(|known| *known == step);
    at.and_then(|at| NAMES.get(at)).map_or("build", String::as_str)
}

rules! {
    "RULES OF THE PROFILE AND THE SITE" {
        Default "default" "Nothing allows it: also an allowed name's address that was found in another way than by \
            asking. The event has the name that led to the address, if one did. If it should be allowed: `agentctl \
            allow ID HOST`, or an entry of `[[network.allow]]`, see agentd-profile(5)."
        NetworkNone "network.none" "A name was asked for, or a rule added, and the session has no network: nothing at \
            all is allowed. What allows a name is the same as above; a session whose profile has `default = \"none\"` \
            in `[network]` never gets one."
        Deny "deny" <" PATTERN"> "A `deny` has that name, or one that it is an alias of. No allow passes it."
        Blocklist "blocklist" <" NAME"> "A blocklist of the site has that name, or one that it is an alias of. NAME is \
            its file's in `egress.blocklists` of agentd.toml(5)."
        BlocklistUnreadable "blocklist.unreadable" "The session's copy of the site's lists could not be read, so that \
            nothing is known to be on none."
        CapConnections "cap.connections" <" RULE"> "As many connections are open as `max_connections` of that rule \
            allows. RULE is as it was given, with its ports."
        CapSent "cap.sent" <" RULE"> "As many bytes were sent as `max_sent` of that rule allows."
        BoundsHostsDenied "bounds.hosts_denied" <" ENTRY"> "The site lets no session reach it: `hosts_denied` in \
            `[bounds]` of agentd.toml(5) has the name, or a network with the address, however a name led to it."
        BoundsOpaque "bounds.opaque" "An opaque rule for port 80 or 443, where the site has not set `[bounds] opaque = \
            true` in agentd.toml(5)."
    }
    "RULES FOR ADDRESSES" {
        PinUnknown "pin.unknown" "The request or the ClientHello names an allowed host that has not answered with this \
            address in this session; or nobody is named, and neither an allowed name nor a `cidr` means the address."
        PinExpired "pin.expired" "An allowed name had this address, its time to live is over (60 seconds at least and \
            an hour at most), and when it was asked for again, as it is once in 5 seconds at most when something is \
            connected to such an address, it did not answer with it any more."
        Address "address" <".RANGE"> "The address is of a special range of IANA's, such as `address.private`, \
            `address.loopback`, `address.link-local`, `address.cloud metadata`, `address.carrier-grade NAT`, \
            `address.unique local`, `address.documentation`, `address.NAT64`, `address.6to4` or `address.Teredo`: most \
            of them mean this host or its network, or can be made to. A `cidr` of the profile that is within the \
            range, and has the port, lets names lead there; `allow_private_ranges` of the site makes a range public."
        AddressOwn "address.own" "It is one of this host's own addresses, where its services believe that this host \
            asks. A `cidr` of that one address allows connections to it by address, `allow_private_ranges` of the site \
            those by name as well; for what listens on the host's loopback there is `local`."
    }
    "RULES FOR NAMES" {
        DnsName "dns.name" "It is no name of a host: empty, too long, of other characters than letters, digits, - and \
            _, with a part that begins or ends with -, an address, or one that means the own machine, such as \
            `localhost` and all below it."
        DnsType "dns.type" "A type of record that is not answered, or not listed in `network.dns_types`. Addresses are \
            always answered; HTTPS and SVCB are empty, so that programs go on by address."
        DnsBudget "dns.budget" "A wildcard has been used for 256 names. Names that an entry has in whole do not count."
    }
    "RULES FOR CONNECTIONS" {
        TcpConnections "tcp.connections" "1,024 are open."
        TcpNames "tcp.names" "One connection was used for more than 1,024 names."
        TcpSlow "tcp.slow" "What the client sent within 10 seconds of its first byte does not show yet whether it is \
            TLS, HTTP or something else."
        TcpShort "tcp.short" "What the client sent before it ended does not show whether it is TLS, HTTP or something \
            else."
        TcpLate "tcp.late" "What the client sent after its server's first bytes, or after a first line of its own that \
            had no end, could be a request or a ClientHello."
        TcpProxied "tcp.proxied" "It begins with a header of the PROXY protocol, behind which another connection's \
            beginning would be hidden."
        TlsUnnamed "tls.unnamed" "The ClientHello names no host (SNI), as of programs that connect to an address. A \
            `cidr` with that address allows it."
        TlsMalformed "tls.malformed" "The ClientHello is longer than 64 KiB, malformed, or has two readings: an \
            extension twice, an address for a name, a second hello that names another host, a request of HTTP inside."
        TlsAnswer "tls.answer" "The server did not answer in TLS."
        HttpMalformed "http.malformed" "Servers read the request in different ways, or not at all: fields that \
            contradict each other or have odd names, no Host or two, a target that names another host than the Host, a \
            head of more than 32 KiB or 128 fields, a change of protocol that is no WebSocket's, a first line without \
            an end. Of HTTP/2 without TLS alike, and a server that does not answer by it."
        HttpBody "http.body" "A body where none belongs: GET, HEAD, DELETE, OPTIONS, TRACE. Some servers take it for \
            the next request."
        HttpPort "http.port" "The port of the Host is not the connection's."
        HttpTarget "http.target" "The proxy is asked for a target that is neither absolute nor a CONNECT's."
        SocksMalformed "socks.malformed" "The proxy is asked by SOCKS5 for something else than a connection to a name \
            or an address."
    }
    "RULES FOR PUBLISHED PORTS, AND FOR AGENTD'S OWN PARTS" {
        PublishConnections "publish.connections" "256 connections to published ports are open."
        PublishUnknown "publish.unknown" "The relay of the session asked for a published port that no plan has. If \
            this is ever seen, the relay is compromised."
        ResolverUnknown "resolver.unknown" "The relay of the session asked for a resolver that no plan has. If this is \
            ever seen, the relay is compromised."
    }
    "RULES FOR SYSTEM CALLS, FILES AND PROGRAMS" {
        ConfineCall "confine.call" "In `confine.denied`: a system call that no session may make, or not with this \
            argument: mounts, namespaces, keys, other kinds of sockets, set-user-ID bits, the machine itself. It \
            failed as its manual page says. Nothing allows it."
        MaskLinks "mask.links" "In `file.denied`: a masked file has more names than were found, by which it may be \
            read."
        DirectLeft "direct.left" "In `file.changed`: what a session left in a directory given as it is, and programs \
            outside would run or follow."
        DirectAside "direct.aside" "In `file.changed`: a variable of git's configuration or a hook that a session \
            changed in its own copy, which ended with it. `setting` and `value` have what was set; for a branch's \
            upstream and a remote's place, the line at the session's end has the command."
        AuditRoom "audit.room" "In `process.exec`: a program was not run because the queue of events is full. Of a \
            change of rules: it was not made for that reason."
        AuditUnnameable "audit.unnameable" "In `process.exec`: a program was not run because its file or process \
            cannot be named in an event."
    }
    "RULES OF THE SITE'S BOUNDS" {
        BoundsHomeSize "bounds.home_size" "The home directory is too small or too large."
        BoundsScratchSize "bounds.scratch_size" "A scratch directory is too small or too large."
        BoundsModesForbidden "bounds.modes_forbidden" "The site forbids this mode of workspaces."
        BoundsHosts "bounds.hosts" "A rule is for a name or network that is not within `hosts` in `[bounds]`."
        BoundsLocal "bounds.local" "The site lets no session reach ports of the host's loopback."
        BoundsPublish "bounds.publish" "The site lets no session publish ports."
        BoundsMaxSessions "bounds.max_sessions" [ResourceExhausted] "The host has as many sessions as it may have."
        BoundsMaxSessionsPerUser "bounds.max_sessions_per_user" [ResourceExhausted] "The user has as many sessions as \
            one may have."
        BoundsUserRequests "bounds.user_requests" [ResourceExhausted] "The user makes more requests a second than one \
            may."
        BoundsUserMemory "bounds.user_memory" "The user's sessions have all the memory in use that they may have."
        BoundsHostMemory "bounds.host_memory" "The host's sessions have all the memory in use that they may have."
    }
    "RULES FOR CALLERS" {
        CallerRoot "caller.root" [PermissionDenied] "Root starts no session unless the site sets `allow_root`, and \
            steers none of another user."
        CallerUnknown "caller.unknown" [PermissionDenied] "The account database does not have the caller's uid in \
            full, or the launcher does not know the connection."
        CallerAdmin "caller.admin" [PermissionDenied] "Only root and members of the admin group may."
        CallerOther "caller.other" [PermissionDenied] "A session's changes are its user's own to review, apply and \
            discard; no admin may."
        CallerGroups "caller.groups" "The caller's groups could not be read, or are too many."
        CallerPool "caller.pool" "A session's own uid or gid asks for a session."
        UserHome "user.home" "The caller's home or shell has a colon in its path, which passwd(5) cannot hold."
    }
    "RULES FOR REQUESTS" {
        RequestAttach "request.attach" [InvalidArgument] "An attach or exec does not begin with its first message, or \
            has two."
        RequestDecision "request.decision" [InvalidArgument] "The decision that events are filtered by is unknown."
        RequestGit "request.git" [InvalidArgument] "A part of a git repository is named that there is not."
        RequestGrace "request.grace" [InvalidArgument] "The time between SIGTERM and SIGKILL is too long."
        RequestKinds "request.kinds" [InvalidArgument] "Too many kinds of events are named."
        RequestMode "request.mode" [InvalidArgument] "The mode of a workspace is unknown."
        RequestPath "request.path" [InvalidArgument] "A path is not absolute, or is malformed."
        RequestPaths "request.paths" [InvalidArgument] "The offered paths are not those that the request asks for."
        RequestProfile "request.profile" [InvalidArgument] "The resolved profile still extends another."
        RequestReview "request.review" [InvalidArgument] "What was done with a session's changes has no such name."
        RequestSignal "request.signal" [InvalidArgument] "The signal is not one that may be sent."
        RequestSince "request.since" [InvalidArgument] "The moment is not RFC 3339 in UTC."
        RequestSize "request.size" [InvalidArgument] "The request has too many entries of one kind."
        RequestSpec "request.spec" [InvalidArgument] "The request has no specification of a session."
        RequestTicket "request.ticket" [InvalidArgument] "The ticket has another length than tickets have."
        RequestUmask "request.umask" [InvalidArgument] "The umask has bits that none has."
        RequestWindow "request.window" [InvalidArgument] "The terminal has more rows or columns than 65,535."
    }
    "RULES FOR PROFILES" {
        ProfileCircle "profile.circle" "The profile extends itself, by way of another or directly."
        ProfileDepth "profile.depth" "The profile has too many parents in a row, or in all."
        ProfileForm "profile.form" "The profile is malformed; the message has the line."
        ProfileLinks "profile.links" "The path of the profile has too many symbolic links."
        ProfileName "profile.name" "The name of the profile is malformed."
        ProfileOpen "profile.open" "The file of the profile cannot be opened."
        ProfileOwner "profile.owner" "A file or directory of the site's profiles can be changed by others than root."
        ProfilePath "profile.path" "A path in the profile is malformed."
        ProfileSize "profile.size" "The profile, one of its lists or one of its entries is too long."
        ProfileType "profile.type" "The file of the profile is no regular file."
        ProfileUnenforced "profile.unenforced" "The profile has a key that this version cannot enforce."
        ProfileUnknown "profile.unknown" [NotFound] "No profile has this name."
        ProfileUnreadable "profile.unreadable" "A file of the site's profiles cannot be read."
        ProfileUtf8 "profile.utf8" "The profile, or its path, is not UTF-8."
    }
    "RULES FOR PLANS AND CONSENT" {
        ConsentProfile "consent.profile" "The daemon asked for another profile than agentctl did."
        ConsentCommand "consent.command" "The daemon asked for another command than agentctl did."
        ConsentEnvironment "consent.environment" "The daemon asked for another environment than agentctl did."
        ConsentFiles "consent.files" "The daemon asked for other files than agentctl did."
        ConsentNetwork "consent.network" "The daemon asked for another network than agentctl did."
        ConsentLimits "consent.limits" "The daemon asked for other limits than agentctl did."
        ConsentForm "consent.form" "The request cannot be digested."
        PlanEgress "plan.egress" "The session has more entries for the network than any may have."
        PlanGit "plan.git" "A part of a git repository has a mode that it cannot have."
        PlanMounts "plan.mounts" "The session has more mounts of a kind than any may have."
        PlanNames "plan.names" "The session has more masked and protected names than any may have."
        PlanReserved "plan.reserved" "The path is of a system directory, which is the session's own."
        PlanSize "plan.size" "The plan is longer than one message."
    }
    "RULES FOR COMMANDS AND ENVIRONMENTS" {
        CommandEmpty "command.empty" "There is no program to run."
        CommandNul "command.nul" "An argument has a NUL byte."
        CommandOption "command.option" "The program's name looks like an option of agentctl."
        CommandSize "command.size" "The command line and the environment are too long."
        CwdAbsolute "cwd.absolute" "The directory of the command is not absolute."
        CwdOpen "cwd.open" "The current directory does not exist."
        EnvironmentDangerous "environment.dangerous" "A profile names a variable that makes programs run other code."
        EnvironmentName "environment.name" "The name of a variable is empty, or has `=` or a NUL byte."
        EnvironmentPattern "environment.pattern" "A pattern of variables is neither a name nor a beginning and `*`."
    }
    "RULES FOR WORKSPACES AND OTHER PATHS" {
        InputOpen "input.open" "The input cannot be opened."
        InputType "input.type" "The input is neither a file nor a directory."
        MaskGlob "mask.glob" "The mask is a pattern that this version does not take."
        MaskName "mask.name" "The mask is no name below the workspace."
        MaskUncovered "mask.uncovered" "Another mount would show what a mask or a protection covers."
        MaskWorkspace "mask.workspace" "There is a mask and no workspace."
        MountDuplicate "mount.duplicate" "Two mounts have the same place."
        OfferForm "offer.form" "The offer is malformed, or its descriptors are not those that it has grants for."
        OfferMissing "offer.missing" "A path of the plan has no descriptor, or the descriptor is used twice."
        OfferMode "offer.mode" "A descriptor was offered for less than the plan asks."
        OfferMoved "offer.moved" "The path changed while the session was asked for."
        OfferPaths "offer.paths" "The session has more paths than can be offered."
        OfferTicket "offer.ticket" "The ticket is unknown, was used, is too old, or is another process's."
        OfferUnreadable "offer.unreadable" "A descriptor does not prove the right to read."
        PathIdmap "path.idmap" "The file system of the path cannot be id-mapped."
        PathKind "path.kind" "The path is of a kind that no session is given, such as a device."
        PathName "path.name" "The path is malformed."
        PathNamespace "path.namespace" "The path is in another mount namespace than agentd."
        PathNested "path.nested" "The path cannot be mounted in the directory that holds it."
        PathOverlay "path.overlay" "The file system of the path cannot be a layer of an overlay."
        PathSubmount "path.submount" "The path is a mount of its own, or has one below it."
        PathUtf8 "path.utf8" "The path is not UTF-8."
        ProtectGlob "protect.glob" "The protected name is a pattern."
        ProtectName "protect.name" "The protected name is no name below the workspace."
        SocketsGlob "sockets.glob" "The name of an accepted socket is a pattern."
        SocketsName "sockets.name" "The name of an accepted socket is no name below the workspace."
        WorkspaceChanged "workspace.changed" "A file was replaced while the session was built."
        WorkspaceClosed "workspace.closed" "A directory of the workspace cannot be searched."
        WorkspaceGit "workspace.git" "A repository's files cannot be read, so that what git follows is unknown."
        WorkspaceHome "workspace.home" "The workspace holds the caller's whole home."
        WorkspaceHooks "workspace.hooks" "The workspace is where its repository's configuration has git run hooks."
        WorkspaceLarge "workspace.large" "The workspace has too many files, or is too deep, to be searched."
        WorkspaceMode "workspace.mode" "The mode of the workspace is unknown."
        WorkspaceNames "workspace.names" "The workspace has too many names to mask and protect."
        WorkspaceOpen "workspace.open" "The workspace cannot be opened."
        WorkspacePath "workspace.path" "The workspace is written to, and programs in it are run by name (PATH)."
        WorkspacePlaceholder "workspace.placeholder" "A name to cover does not exist and cannot be held free."
        WorkspaceProfiles "workspace.profiles" "The workspace holds the profiles of its own session."
        WorkspaceSocket "workspace.socket" "The workspace has a Unix socket, in mode direct."
        WorkspaceStartup "workspace.startup" "The caller's own programs run or trust what is in the workspace."
        WorkspaceSymlink "workspace.symlink" "A masked or protected name leads through a symbolic link."
        WorkspaceType "workspace.type" "The workspace is no directory."
        WorkspaceUtf8 "workspace.utf8" "A name to cover is not UTF-8."
        WriteOpen "write.open" "The directory to write to cannot be opened."
    }
    "RULES FOR RULES OF THE NETWORK" {
        EgressPrivateRanges "egress.allow_private_ranges" "The plan has other public ranges than the site."
        EgressProxy "egress.proxy" "The plan has another proxy than the site, or the proxy's password cannot be read."
        EgressResolver "egress.resolver" "The plan has a resolver that is not the site's, or none for its names."
        EgressSearch "egress.search" "The plan has other domains to search than the site."
        EgressTrust "egress.trust" "The site's trust anchors cannot be read."
        NetworkCap "network.cap" "A cap is of nothing, or belongs to no rule."
        NetworkChange "network.change" "A change has no entries, or too many."
        NetworkCidr "network.cidr" "The network is malformed."
        NetworkDeny "network.deny" "A deny is malformed, or denies what is to be allowed."
        NetworkDns "network.dns" "A rule is for port 53, where agentd itself answers."
        NetworkDnsTypes "network.dns_types" "The type of record cannot be listed."
        NetworkForm "network.form" "The entry is malformed."
        NetworkHost "network.host" "The entry is for what is no name of a host."
        NetworkLive "network.live" "A running session cannot be given that."
        NetworkLocal "network.local" "The port of the host's loopback is none, or agentd's own."
        NetworkLoopback "network.loopback" "The network is the session's own loopback."
        NetworkOpaque "network.opaque" "An opaque rule is for an address, a wildcard, or without ports."
        NetworkPort "network.port" "A port is none."
        NetworkPublish "network.publish" "The published port is malformed, taken, or agentd's own."
        NetworkUdp "network.udp" "A rule is for every port of UDP."
    }
    "RULES FOR SESSIONS" {
        AttachGone "attach.gone" [OutOfRange] "The output is not kept any more."
        AttachSlow "attach.slow" [ResourceExhausted] "The client does not take the output fast enough."
        ReviewConflict "review.conflict" "A file was changed in the workspace since the session began, or stands against a \
            change in another way: nothing was applied."
        ReviewNothing "review.nothing" "There is nothing to review, apply or take back."
        ReviewPath "review.path" "A path is in none of the session's workspaces."
        ReviewUnseen "review.unseen" "The session changed a file since `agentctl diff` showed it, or no diff showed it."
        ReviewFailed "review.failed" "What the session changed cannot be shown: a call of the host's failed."
        ReviewFormat "review.format" "What the session changed is not as this version of agentd writes it, or the session \
            is being built."
        ReviewMoved "review.moved" "The workspace of the session was moved or replaced: what it changed cannot be \
            compared with another directory."
        SessionAmbiguous "session.ambiguous" "Several sessions have this name, or ids that begin like this."
        SessionCommands "session.commands" [ResourceExhausted] "The session has as many further commands as one may \
            have."
        SessionEnded "session.ended" "The session has ended."
        SessionEnding "session.ending" "The session does not end."
        SessionExists "session.exists" "A session with this id exists."
        SessionId "session.id" "The id is malformed, or taken."
        SessionName "session.name" "The name is malformed, or a session has it."
        SessionOther "session.other" "The daemon answered with another session."
        SessionRemove "session.remove" "What the session left behind could not be deleted."
        SessionRunning "session.running" "The session runs."
        SessionSignals "session.signals" "Too many signals wait already, or the session has ended."
        SessionStreams "session.streams" "The session's streams are not there yet."
        SessionUnanswered "session.unanswered" "The session does not answer."
        SessionUnknown "session.unknown" [NotFound] "No session has this name or id, or none that the caller may see."
        SessionsKept "sessions.kept" [ResourceExhausted] "As many ended sessions are kept as one user may keep."
    }
    "RULES OF THE DAEMON AND ITS HOST" {
        AuditFailed "audit.failed" [Unavailable] "Events cannot be written to disk."
        AuditLate "audit.late" [Unavailable] "The last events are not on disk yet."
        HostBusy "host.busy" "As much of this kind is done already as is done at a time."
        HostClosing "host.closing" "agentd is shutting down."
        HostDisk "host.disk" "The disk of `state_dir` has no space for another session."
        HostLauncher "host.launcher" [Unavailable] "The launcher does not answer."
        HostVersion "host.version" "A part of agentd that is of another version, as during an upgrade, refused it by a \
            rule that this one does not know; that part's log has more."
        LauncherPeer "launcher.peer" "Another user than root listens at the launcher's socket."
        ServiceCrowded "service.crowded" [ResourceExhausted] "As many requests of this kind wait already as may wait."
        ServiceFailed "service.failed" "The service failed."
        ServiceStore "service.store" [Unavailable] "The session's record could not be written."
        SocketPermission "socket.permission" "The caller may not connect to agentd's socket."
    }
}
