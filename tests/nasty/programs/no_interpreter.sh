#!/no/such/interpreter -x
echo never
