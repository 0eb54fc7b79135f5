#!/usr/bin/env python3
# Writes bytes that are not text, text that is not valid in XML, and XML markup.
import os

os.write(1, b"NUL \x00 BEL \x07 ESC \x1b[31mred\x1b[0m \x1b]0;title\x07 CR \r BS \x08 DEL \x7f\n")
os.write(1, b"invalid \xff\xfe \xc3( \xf8\x88\x80\x80\x80 cut \xe2\x82\n")
os.write(1, b"noncharacters \xef\xbf\xbe \xef\xbf\xbf surrogates \xed\xa0\x80 \xed\xbf\xbf\n")
os.write(1, "controls \x85 \x9b31m separators \u2028 \u2029 \U0001fffe \U0001f600\n".encode())
os.write(2, b"]]> <![CDATA[ </testcase></testsuite> &amp; &bogus; <!--\n")
os.write(1, "UTF-16 \u2603".encode("utf-16") + b"\nthe end\n")
raise SystemExit(5)
