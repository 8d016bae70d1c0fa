
# Completion of `kindling …` and `python -m src.…`
_kindling() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\n' word prefix candidate
    local program=("$1" --complete)
    if [[ $1 != *kindling ]]; then
        [[ $line == *" -m src."* ]] || return
        program=("$1" -m src.kindling.dev.completion)
    fi
    word=${line##* }
    prefix=${word%"${word##*=}"} # readline's own word begins after a "="
    COMPREPLY=()
    for candidate in $("${program[@]}" "$line" 2>/dev/null); do
        compopt -o nospace
        [[ $candidate == *[=./] ]] || candidate+=" "
        COMPREPLY+=("${candidate#"$prefix"}")
    done
}
complete -o bashdefault -o default -F _kindling kindling python python3
