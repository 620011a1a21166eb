
# Prints the words of a kind, as the daemon that the line names knows them.
_agentctl_words() {
    agentctl "${socket[@]}" words "$1" 2>/dev/null
}

# Sets `command`, the subcommand; `plain`, how many words follow it that are no options; `start`, where the command to
# run begins; `option`, the one whose value is being typed; and `socket`.
_agentctl_walk() {
    local at word
    command='' plain=0 start=0 option='' socket=()
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        if [[ $option ]]; then
            [[ $word == = ]] && continue
            [[ $option == --socket ]] && socket=(--socket "$word")
            option=''
            continue
        fi
        case $command:$word in
            *:--) start=$((at + 1)); return ;;
            @VALUES@) option=$word ;;
            *:-*) ;;
            :*) command=$word ;;
            *) if [[ $command == run || $command:$plain == exec:1 ]]; then start=$at; return; fi
               plain=$((plain + 1)) ;;
        esac
    done
    if [[ ! $option && ${COMP_WORDS[COMP_CWORD]} != -* && $command:$plain == @(run:0|exec:1) ]]; then
        start=$COMP_CWORD
    fi
}

_agentctl_or_words() {
    local command plain start option socket signals cur=$2
    _agentctl_walk
    [[ $cur == = ]] && cur=''
    case $command:$option:$plain in
        run:--profile:*) COMPREPLY=($(compgen -W "$(_agentctl_words profiles)" -- "$cur") $(compgen -f -- "$cur")); return ;;
        run:--workspace:*|exec:--cwd:*) COMPREPLY=($(compgen -d -- "$cur")); return ;;
        kill:-s:*|kill:--signal:*)
            signals=$(compgen -A signal SIG)
            [[ $cur == SIG* ]] || signals=${signals//SIG/}
            COMPREPLY=($(compgen -W "$signals" -- "$cur"))
            return ;;
        *:-*:*) _agentctl agentctl "$cur" "$option"; return ;;
    esac
    if ((start)); then
        # What runs there is completed as it would be by itself.
        if declare -F _comp_command_offset >/dev/null; then _comp_command_offset "$start"
        elif declare -F _command_offset >/dev/null; then _command_offset "$start"
        elif ((COMP_CWORD == start)); then COMPREPLY=($(compgen -c -- "$cur"))
        fi
        return
    fi
    if [[ $cur != -* ]]; then
        case $command:$plain in
            attach:0|exec:0|allow:0|deny:0|stop:*|kill:*) COMPREPLY=($(compgen -W "$(_agentctl_words running)" -- "$cur")); return ;;
            logs:0|events:0|inspect:*|rm:*) COMPREPLY=($(compgen -W "$(_agentctl_words sessions)" -- "$cur")); return ;;
            profile:1) COMPREPLY=($(compgen -W "$(_agentctl_words profiles)" -- "$cur") $(compgen -f -- "$cur")); return ;;
        esac
    fi
    _agentctl "$@"
}
complete -F _agentctl_or_words -o bashdefault -o default agentctl
