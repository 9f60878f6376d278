# fish --no-config tab.fish SCRIPT LINE: sources a completion script, and prints what is
# offered for the last word of a command line, and what that means after a tab.
source $argv[1]
or exit
complete --do-complete $argv[2]
