"""What `make docs` needs beside the pages in `docs`: links that leave the site, generated pages."""
