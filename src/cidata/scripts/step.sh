# sh -c THIS NAME SCRIPT: runs a `boot` script in a shell of its own and reports its failure.
# Succeeds all the same, so that one script's failure does not end cloud-init's stage and the scripts after it.
sh -c "$1" "$0" </dev/null
code=$?
if [ "$code" -ne 0 ]; then
    echo "limafs: $0 failed with exit code $code"
    printf '%s %s\n' "$0" "$code" >>/run/limafs-failed
    printf 'failed %s %s %s\n' "$(cat /run/limafs/iid)" "$code" "$0" >>/run/limafs/reports
fi
exit 0
