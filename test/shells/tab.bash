# bash tab.bash SCRIPT LINE: sources a completion script, presses Tab at the end of a
# command line, and prints what is offered for its last word.
set -u
# Stands in for the package bash-completion, of which cobra's scripts need this much.
_get_comp_words_by_ref() {
	words=("${COMP_WORDS[@]}") cword=$COMP_CWORD cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
}
__ltrim_colon_completions() { :; }
compopt() { :; }
source "$1" || exit
COMP_LINE=$2 COMP_POINT=${#2} COMP_TYPE=9
read -ra COMP_WORDS <<<"$2"
[[ $2 == *' ' ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMPREPLY=()
# The function that the script has registered for the command.
read -ra registered <<<"$(complete -p "${COMP_WORDS[0]}")"
for ((i = 0; i < ${#registered[@]}; i++)); do
	[[ ${registered[i]} != -F ]] || function=${registered[i+1]}
done
"$function"
printf '%s\n' "${COMPREPLY[@]}"
