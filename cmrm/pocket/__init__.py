"""The pocket model: a tiny vision-language model this project trains, ships and is tested on."""
