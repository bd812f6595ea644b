"""What stands between a prompt and a model's numbers: template, tokens, generation settings; read
from both arms' verified files, and compared part by part."""
