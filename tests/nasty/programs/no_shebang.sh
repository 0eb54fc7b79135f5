# Has no shebang: text is run by the shell.
echo "by the shell"
