#!/usr/bin/env python3
# Reports 300 failed cases with 60 KB of diagnostics each.
print("1..300")
for number in range(1, 301):
    print("not ok", number, "- case")
    for _ in range(60):
        print("# ", "x" * 1000, sep="")
raise SystemExit(3)
