
# Completion of `kindling …` and `python -m src.…`
function __kindling
    set -l line (commandline -cp)
    set -l program (commandline -op)[1]
    string match -q '*kindling' -- $program; and set -a program --complete
    or set -a program -m src.kindling.dev.completion
    set -g __kindling_candidates ($program "$line" 2>/dev/null)
    test -n "$__kindling_candidates"
end
complete -c kindling -n __kindling -f -a '$__kindling_candidates'
set -l of_module 'string match -q "* -m src.*" -- (commandline -cp); and __kindling'
complete -c python -c python3 -n $of_module -f -a '$__kindling_candidates'
complete -c python -c python3 -s m -n $of_module -x -a '$__kindling_candidates'
