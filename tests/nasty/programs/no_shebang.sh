# No shebang: text runs by the shell.
echo "by the shell"
