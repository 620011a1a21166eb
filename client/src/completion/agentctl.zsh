
# Adds the words of a kind, the last argument, as the daemon that the line names knows them.
_agentctl_words() {
    local -a line socket found
    local at
    line=(${(z)LBUFFER})
    for ((at = 2; at < ${#line}; at++)); do
        case $line[at] in
            (--) break ;;
            (--socket) socket=(--socket ${(Q)line[at + 1]}) ;;
            (--socket=*) socket=(${(Q)line[at]}) ;;
        esac
    done
    found=(${(f)"$(agentctl $socket words $argv[-1] 2>/dev/null)"})
    compadd "${@[1,-2]}" -a found
}
_agentctl_running() { _agentctl_words "$@" running }
_agentctl_sessions() { _agentctl_words "$@" sessions }
_agentctl_profiles() { _alternative 'profiles:profile:_agentctl_words profiles' 'files:file:_files' }
