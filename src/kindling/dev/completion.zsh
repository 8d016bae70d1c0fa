
# Completion of `kindling …` and `python -m src.…`
_kindling() {
    local -a program=("$words[1]" --complete) candidates
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    if [[ $words[1] != *kindling ]]; then
        [[ $line == *" -m src."* ]] || { _python 2>/dev/null || _files; return }
        program=("$words[1]" -m src.kindling.dev.completion)
    fi
    candidates=("${(@f)$("${program[@]}" "$line" 2>/dev/null)}")
    if [[ -z $candidates ]]; then
        compset -P '*='
        _files
        return
    fi
    compadd -S '' -- ${(M)candidates:#*[=./]}
    compadd -- ${candidates:#*[=./]}
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _kindling kindling python python3
