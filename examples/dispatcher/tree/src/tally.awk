# Counts words, as a stand-in for a product.
{ words += NF }
END { print words + 0 }
