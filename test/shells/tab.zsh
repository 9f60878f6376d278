# zsh -f tab.zsh SCRIPT LINE: starts an interactive zsh in a terminal, types a command
# line and Tab into it, and prints what its last word has become.
zmodload zsh/zpty || exit
answer=$(mktemp) || exit
export ANSWER=$answer SCRIPT=$1
trap 'zpty -d shell 2>/dev/null; rm -f $answer' EXIT
zpty shell zsh -f -i
# The marks are put together by the shell, so that the echo of what is typed is none.
zpty -w shell 'PS1= PS2= LISTMAX=-1; stty cols 200 rows 100; autoload -Uz compinit && compinit -u -D
	source $SCRIPT && print loa""ded || print fai""led
	answer() { print -r -- "$BUFFER" >$ANSWER; print answ""ered }
	zle -N answer; bindkey "^Xa" answer; print rea""dy'
zpty -r shell output '*ready*'
if [[ $output != *loaded* ]]; then
	print -ru2 -- "$output"
	exit 1
fi
zpty -wn shell "$2"$'\t\C-Xa'
zpty -r shell output '*answered*'
words=(${(z)"$(<$answer)"})
print -r -- "$words[-1]"
