complete -c agentctl -n "__fish_agentctl_using_subcommand attach exec stop kill allow deny" -f -a "(agentctl words running 2>/dev/null)"
complete -c agentctl -n "__fish_agentctl_using_subcommand inspect logs events rm" -f -a "(agentctl words sessions 2>/dev/null)"
complete -c agentctl -n "__fish_agentctl_using_subcommand run" -l profile -r -a "(agentctl words profiles 2>/dev/null)"
