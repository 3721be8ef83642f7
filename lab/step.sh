#!/usr/bin/env bash
# Run one step of the Makefile: say that it starts, and how long it took.
title=$1
shift
printf '\n==> %s\n' "$title"
start=$SECONDS
"$@"
code=$?
if [ $code -eq 0 ]; then
    printf '==> %s: done after %s s\n' "$title" "$((SECONDS - start))"
else
    printf '==> %s: FAILED after %s s (exit %s)\n' "$title" "$((SECONDS - start))" "$code" >&2
fi
exit $code
