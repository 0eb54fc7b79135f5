#!/etc
echo never
