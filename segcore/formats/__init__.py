"""The formats that published and own labels come in, where two datasets or more share them."""
