"""What the API's requests and answers look like: operations, models, checks, and their OpenAPI document."""
